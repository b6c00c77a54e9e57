"""A peer's copy of what is trained: model, optimizer, cursor, and the tensors that a round averages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import xxhash
from torch import Tensor, nn

from lepton_p2p.errors import SchemaMismatch
from lepton_p2p.replication.cursor import Cursor
from lepton_p2p.training.snapshots import Snapshot, capture, restore
from lepton_p2p.training.state import Schema, model_tensors, params_digest


class Replica:
    """Model, optimizer and cursor change only in :meth:`apply` and :meth:`restore`, in ways that depend on nothing
    but their arguments; that is what keeps replicas bit-identical.

    ``tensors``: gradients of ``parameters`` (the mean over the batch; zeros where there is none), then the changes of
    the model's buffers (integers as float64), so that batch statistics stay equal too; subclasses add more.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], cursor: Cursor
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.cursor = cursor
        self._parameters = list(parameters)
        self._grads = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._buffers = [buffer for buffer in model.buffers() if buffer.dtype is not torch.bool]
        self._changes = [_change_of(buffer) for buffer in self._buffers]
        self._start = 0
        self.tensors: list[Tensor] = [*self._grads, *self._changes]

    @property
    def schema(self) -> Schema:
        return Schema.of(self.model, self.optimizer)

    def _set_back_buffers(self, before: Sequence[Tensor]) -> None:
        """What forward passes did to the buffers is a contribution; the state stays until the round is decided.

        Changes and not values are averaged: a buffer that nobody touches stays exactly as it is.
        """
        for buffer, change, old in zip(self._buffers, self._changes, before, strict=True):
            if buffer.is_floating_point():
                # An infinity that stays (in an attention mask) is no change, but inf - inf is no number.
                torch.sub(buffer, old, out=change).masked_fill_(buffer == old, 0)
            else:
                change.copy_(buffer - old)
            buffer.copy_(old)

    def apply(self, tensors: Sequence[Tensor], after: Cursor) -> None:
        """One optimizer step with the averaged ``tensors`` (skipped if nobody contributed), and the next cursor.

        If a branch was brought, the tensors are where parameters and buffers move, and the optimizer rests.
        """
        if after.unions > self.cursor.unions:
            self._unite(tensors)
        elif after.step > self.cursor.step:
            for parameter, own, averaged in zip(self._parameters, self._grads, tensors, strict=False):
                if averaged is not own:
                    own.copy_(averaged)
                parameter.grad = own
            self._change_buffers(tensors)
            self._prepare_step(tensors)
            self._step()
        self.cursor = after

    def _change_buffers(self, tensors: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for buffer, change in zip(self._buffers, tensors[len(self._grads) :], strict=False):
                buffer.add_(change if buffer.is_floating_point() else change.round().to(buffer.dtype))

    def _unite(self, tensors: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for parameter, change in zip(self._parameters, tensors, strict=False):
                parameter.add_(change.to(parameter.device))
        self._change_buffers(tensors)

    def displace(self, theirs: Snapshot, share: float) -> None:
        """Fill ``tensors`` with the way from here to the weighted mean of this state and ``theirs``, which has
        ``share`` (0 to 1) of the weight.
        """
        other = theirs.tensors()
        names = {tensor: name for name, tensor in model_tensors(self.model)}
        with torch.no_grad():
            for own, way in zip((*self._parameters, *self._buffers), (*self._grads, *self._changes), strict=True):
                there = other[names[own]].to(own.device)
                way.copy_(there - own).masked_fill_(there == own, 0).mul_(share)

    def _step(self) -> None:
        self.optimizer.step()

    def _prepare_step(self, tensors: Sequence[Tensor]) -> None:
        """What else must be in place before the optimizer's step; a function of replicated values only."""

    def digest(self) -> int:
        """Of parameters, buffers and cursor, never 0: what members compare in every round."""
        parts = [params_digest(self.model), self.cursor.to_json(), *self._more_state()]
        return xxhash.xxh3_64_intdigest(json.dumps(parts, sort_keys=True).encode()) or 1

    def _more_state(self) -> Sequence[object]:
        """What else members compare, JSON-able."""
        return ()

    def seed(self) -> int:
        """64-bit digest of the state that the training would start from, if it starts with this peer."""
        return self._start

    def capture(self, round: int) -> Snapshot:
        """Everything, as it is after ``round``."""
        return capture(self.model, self.optimizer, self.cursor, round=round, extra=self._extra())

    def _extra(self) -> Mapping[str, Any]:
        """What else a snapshot tells, the same on all members."""
        return {}

    def restore(self, snapshot: Snapshot) -> None:
        """Become what was captured; ``IntegrityError`` or ``SchemaMismatch`` before any change."""
        theirs, own = snapshot.cursor, self.cursor
        if theirs is None or (theirs.total, theirs.seed, theirs.batch) != (own.total, own.seed, own.batch):
            raise SchemaMismatch("the swarm's data cursor is of another data set or job: use the same job everywhere")
        cursor = restore(snapshot, self.model, self.optimizer)
        assert cursor is not None  # looked at above
        self.cursor = cursor

    def resume(self, snapshot: Snapshot) -> None:
        """``restore`` from a checkpoint, before the first round: the training starts here if it starts with this peer.

        Those that had claims in the next round have other ids now, or are gone.
        """
        self.restore(snapshot)
        self.cursor = replace(self.cursor, claimants=(), entering=(), bearer=None)
        self._start = int.from_bytes(self.capture(0).manifest.digest[:8], "big")


def _change_of(buffer: Tensor) -> Tensor:
    """Room for a change of the buffer, in a dtype that can be averaged."""
    return torch.zeros_like(buffer, dtype=buffer.dtype if buffer.is_floating_point() else torch.float64)
