"""A peer's copy of what is trained: model, optimizer, cursor, and the tensors that a round averages."""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch
import xxhash
from torch import Tensor

from lepton_p2p.errors import SchemaMismatch
from lepton_p2p.jobs import Job
from lepton_p2p.models import Built
from lepton_p2p.training.ranges import Range, size_of
from lepton_p2p.training.sampler import Cursor, Sampler
from lepton_p2p.training.schedule import fraction, lr_factor
from lepton_p2p.training.snapshots import Snapshot, capture, restore
from lepton_p2p.training.state import Schema, params_digest


class Replica:
    """Model, optimizer and cursor change only in :meth:`apply` and :meth:`restore`, in ways that depend on nothing
    but their arguments; that is what keeps replicas bit-identical.

    ``tensors``: gradients of all trainable parameters (the mean over the batch; zeros where there is none), then the
    changes of the model's buffers (integers as float64), so that batch statistics stay equal too.
    """

    def __init__(self, job: Job, built: Built) -> None:
        self.model = built.model
        self.job = job
        self._x, self._y = built.train
        self._loss_fn = built.loss_fn
        self._trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = built.make_optimizer(self._trainable)
        self._base_lr = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.cursor = Cursor(len(self._x), job.seed, job.batch_size)
        self._sampler = Sampler()
        self._grads = [torch.zeros_like(parameter) for parameter in self._trainable]
        self._buffers = [buffer for buffer in self.model.buffers() if buffer.dtype is not torch.bool]
        self._changes = [_change_of(buffer) for buffer in self._buffers]
        self.tensors: list[Tensor] = [*self._grads, *self._changes]

    @property
    def schema(self) -> Schema:
        return Schema.of(self.model, self.optimizer)

    def contribute(self, claim: Sequence[Range]) -> float:
        """Fill ``tensors`` from the samples of ``claim`` (zeros for none); return the sum of their losses."""
        for gradient in self._grads:
            gradient.zero_()
        before = [buffer.clone() for buffer in self._buffers]
        count = size_of(claim)
        loss_sum = self._backward(claim) * count if count else 0.0
        for buffer, change, old in zip(self._buffers, self._changes, before, strict=True):
            # What the forward pass did to the buffers is a contribution; the state stays until the round is decided.
            # Changes and not values are averaged: a buffer that nobody touches stays exactly as it is.
            torch.sub(buffer, old, out=change) if buffer.is_floating_point() else change.copy_(buffer - old)
            buffer.copy_(old)
        return loss_sum

    def _backward(self, claim: Sequence[Range]) -> float:
        # Gradients accumulate straight into the tensors that the round averages.
        for parameter, gradient in zip(self._trainable, self._grads, strict=True):
            parameter.grad = gradient
        index = torch.from_numpy(self._sampler.samples(self.cursor, claim))
        self.model.train()
        loss = self._loss_fn(self.model(self._x[index]), self._y[index])
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def apply(self, tensors: Sequence[Tensor], after: Cursor) -> None:
        """One optimizer step with the averaged ``tensors`` (skipped if nobody contributed), and the next cursor."""
        if after.step > self.cursor.step:
            for parameter, own, averaged in zip(self._trainable, self._grads, tensors, strict=False):
                if averaged is not own:
                    own.copy_(averaged)
                parameter.grad = own
            with torch.no_grad():
                for buffer, change in zip(self._buffers, tensors[len(self._grads) :], strict=True):
                    buffer.add_(change if buffer.is_floating_point() else change.round().to(buffer.dtype))
            self._set_lr()
            self.optimizer.step()
        self.cursor = after

    def _set_lr(self) -> None:
        cursor = self.cursor
        passes = cursor.pass_number + (cursor.used + cursor.skipped) / cursor.total
        done = fraction(self.job.schedule, step=cursor.step, passes=passes)
        factor = lr_factor(self.job.schedule, step=cursor.step, done=done)
        for group, base in zip(self.optimizer.param_groups, self._base_lr, strict=True):
            group["lr"] = base * factor

    def digest(self) -> int:
        """Of parameters, buffers and cursor, never 0: what members compare in every round."""
        text = json.dumps([params_digest(self.model), self.cursor.to_json()], sort_keys=True)
        return xxhash.xxh3_64_intdigest(text.encode()) or 1

    def capture(self, round: int) -> Snapshot:
        """Everything, as it is after ``round``."""
        return capture(self.model, self.optimizer, self.cursor, round=round)

    def restore(self, snapshot: Snapshot) -> None:
        """Become what was captured; ``IntegrityError`` or ``SchemaMismatch`` before any change."""
        theirs, own = snapshot.cursor, self.cursor
        if theirs is None or (theirs.total, theirs.seed, theirs.batch) != (own.total, own.seed, own.batch):
            raise SchemaMismatch("the swarm's data cursor is of another data set or job: use the same job everywhere")
        cursor = restore(snapshot, self.model, self.optimizer)
        assert cursor is not None  # looked at above
        self.cursor = cursor


def _change_of(buffer: Tensor) -> Tensor:
    """Room for a change of the buffer, in a dtype that can be averaged."""
    return torch.zeros_like(buffer, dtype=buffer.dtype if buffer.is_floating_point() else torch.float64)
