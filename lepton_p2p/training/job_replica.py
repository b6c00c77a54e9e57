"""The replica of a job: it computes its own gradients and sets the learning rate by the job's schedule."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lepton_p2p.jobs import Job
from lepton_p2p.models import Built
from lepton_p2p.replication.cursor import Cursor
from lepton_p2p.replication.ranges import Range, size_of
from lepton_p2p.training.computing import computing
from lepton_p2p.training.replica import Replica
from lepton_p2p.training.sampler import Sampler
from lepton_p2p.training.schedule import fraction, lr_factor


class JobReplica(Replica):
    """All trainable parameters of the job's model, its data, loss and optimizer.  ``unites``: see ``Cursor``."""

    def __init__(self, job: Job, built: Built, *, unites: bool = True) -> None:
        self._x, self._y = built.train
        trainable = [parameter for parameter in built.model.parameters() if parameter.requires_grad]
        cursor = Cursor(len(self._x), job.seed, job.batch_size, unites=unites)
        super().__init__(built.model, built.make_optimizer(trainable), trainable, cursor)
        self._job = job
        self._loss_fn = built.loss_fn
        self._base_lr = [float(group["lr"]) for group in self.optimizer.param_groups]
        self._sampler = Sampler()

    def contribute(self, claim: Sequence[Range]) -> float:
        """Fill ``tensors`` from the samples of ``claim`` (zeros for none); return the sum of their losses."""
        for gradient in self._grads:
            gradient.zero_()
        before = [buffer.clone() for buffer in self._buffers]
        count = size_of(claim)
        loss_sum = self._backward(claim) * count if count else 0.0
        self._set_back_buffers(before)
        return loss_sum

    def _backward(self, claim: Sequence[Range]) -> float:
        # Gradients accumulate straight into the tensors that the round averages.
        for parameter, gradient in zip(self._parameters, self._grads, strict=True):
            parameter.grad = gradient
        index = torch.from_numpy(self._sampler.samples(self.cursor, claim))
        self.model.train()
        with computing("the model's forward and backward pass"):
            loss = self._loss_fn(self.model(self._x[index]), self._y[index])
            loss.backward()  # type: ignore[no-untyped-call]
            return float(loss.detach())

    def _step(self) -> None:
        with computing("the optimizer's step"):
            super()._step()

    def _prepare_step(self, tensors: Sequence[Tensor]) -> None:
        cursor = self.cursor
        passes = cursor.pass_number + (cursor.used + cursor.skipped) / cursor.total
        done = fraction(self._job.schedule, step=cursor.step, passes=passes)
        factor = lr_factor(self._job.schedule, step=cursor.step, done=done)
        for group, base in zip(self.optimizer.param_groups, self._base_lr, strict=True):
            group["lr"] = base * factor
