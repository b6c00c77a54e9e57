"""The replica of a program's own loop: the program computes the gradients, with whatever model and optimizer it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lepton_p2p.errors import ConfigError, SchemaMismatch
from lepton_p2p.replication.cursor import MAX_SAMPLES, Cursor
from lepton_p2p.training.hyperparameters import Hyperparameters
from lepton_p2p.training.replica import Replica
from lepton_p2p.training.snapshots import Snapshot
from lepton_p2p.training.state import Schema, optimizer_values, params_digest

NO_DATA = Cursor(MAX_SAMPLES - 1, 0, 1)
"""For programs that find their own samples: counts steps; no place of it is ever used."""


class PlainReplica(Replica):
    """The parameters that ``optimizer`` steps, all of them in ``model``; both stay the program's own objects.

    Besides gradients and changes of buffers, a round averages one float64 tensor: the leader's hyperparameters, and for
    each parameter whether anybody had a gradient (torch leaves parameters alone that have none).  ``voted``: these are
    medians, of everybody's hyperparameters and of who had a gradient.

    Raises :class:`ConfigError` for models and optimizers that cannot be kept equal.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, *, voted: bool = False) -> None:
        super().__init__(model, optimizer, _checked(model, optimizer), NO_DATA)
        self._voted = voted
        self._settled = [buffer.clone() for buffer in self._buffers]
        self._initial = params_digest(model)
        self._shuffle = True
        self._hyper: Hyperparameters | None = None
        self._numbers = self._present = torch.empty(0)

    @property
    def begun(self) -> bool:
        """Whether there was a first round, or is about to be."""
        return self._hyper is not None

    def begin(self, cursor: Cursor = NO_DATA, *, shuffle: bool = True) -> None:
        """Right before the first round: from now on model and optimizer belong to the swarm."""
        if cursor is NO_DATA and self._parameters_changed():
            raise RuntimeError(
                "the model's parameters were changed between swarm.optimizer() and the first step: load checkpoints "
                "before swarm.optimizer()"
            )
        self.cursor, self._shuffle = cursor, shuffle
        self._hyper = Hyperparameters(self.optimizer, voted=self._voted)
        control = torch.zeros(self._hyper.size + len(self._parameters), dtype=torch.float64)
        self._numbers, self._present = control[: self._hyper.size], control[self._hyper.size :]
        self.tensors = [*self._grads, *self._changes, control]
        if cursor is not NO_DATA:
            # The program has not computed anything yet: what the buffers hold now is the start.
            self._settle_buffers()

    def _parameters_changed(self) -> bool:
        now = [buffer.clone() for buffer in self._buffers]
        for buffer, settled in zip(self._buffers, self._settled, strict=True):
            buffer.copy_(settled)
        changed = params_digest(self.model) != self._initial
        for buffer, own in zip(self._buffers, now, strict=True):
            buffer.copy_(own)
        return changed

    @property
    def hyper(self) -> Hyperparameters:
        assert self._hyper is not None, "begin() comes first"
        return self._hyper

    def gather(self) -> None:
        """Fill ``tensors`` with the program's gradients and with what its forward passes did to the buffers."""
        for index, (parameter, own) in enumerate(zip(self._parameters, self._grads, strict=True)):
            gradient = parameter.grad
            self._present[index] = float(gradient is not None)
            if gradient is None:
                own.zero_()
            elif gradient is not own:
                own.copy_(gradient.detach().to_dense() if gradient.is_sparse else gradient.detach())
        self._set_back_buffers(self._settled)

    def gather_nothing(self) -> None:
        """Fill ``tensors`` with zeros, for a round in which this peer has no share."""
        self._set_back_buffers(self._settled)
        for tensor in self.tensors:
            tensor.zero_()

    def propose(self, *, leading: bool) -> None:
        """Let the groups hold what is agreed during the round; ``leading``: the others take this peer's numbers."""
        self.hyper.propose(self._numbers, leading=leading)

    def apply(self, tensors: Sequence[Tensor], after: Cursor) -> None:
        super().apply(tensors, after)
        self._settle_buffers()

    def _prepare_step(self, tensors: Sequence[Tensor]) -> None:
        control = tensors[-1]
        self.hyper.settle(control[: self.hyper.size])
        for parameter, anybody in zip(self._parameters, control[self.hyper.size :].tolist(), strict=True):
            if not anybody:
                parameter.grad = None

    def _unite(self, tensors: Sequence[Tensor]) -> None:
        super()._unite(tensors)
        self.hyper.take_back()  # nobody stepped: what the program has set is still to come

    def _settle_buffers(self) -> None:
        for settled, buffer in zip(self._settled, self._buffers, strict=True):
            settled.copy_(buffer)

    def seed(self) -> int:
        return int.from_bytes(self.capture(0).manifest.digest[:8], "big")

    def _more_state(self) -> Sequence[object]:
        return self.hyper.agreed

    def _extra(self) -> Mapping[str, Any]:
        return {"shuffle": self._shuffle}

    def restore(self, snapshot: Snapshot) -> None:
        theirs, own = snapshot.cursor, self.cursor
        extra = snapshot.meta.get("extra")
        differ = theirs is None or (theirs.total, theirs.seed, theirs.batch) != (own.total, own.seed, own.batch)
        if differ or not isinstance(extra, dict) or extra.get("shuffle") != self._shuffle:
            raise SchemaMismatch(
                "the swarm's data loader differs: use a data set of the same size and the same batch_size, seed and "
                "shuffle on all peers"
            )
        super().restore(snapshot)
        self.hyper.adopt()
        self._settle_buffers()


def _checked(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """The optimizer's parameters, in its order."""
    if isinstance(optimizer, torch.optim.LBFGS | torch.optim.SparseAdam):
        raise ConfigError(
            f"{type(optimizer).__name__} cannot be used in a swarm: it needs several evaluations per step or sparse "
            "gradients; SGD, Adam, AdamW and the like can"
        )
    names = {parameter: name for name, parameter in model.named_parameters()}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if any(parameter not in names for parameter in parameters):
        raise ConfigError(
            "the optimizer has parameters that are not in the model: put all that is trained into one nn.Module, and "
            "pass that as model"
        )
    for parameter in parameters:
        if not parameter.is_floating_point():
            raise ConfigError(f"parameter {names[parameter]!r} is {parameter.dtype}: only real floats can be averaged")
    try:
        Schema.of(model, optimizer)
        optimizer_values(optimizer)
    except TypeError as error:
        raise ConfigError(f"model or optimizer cannot be sent to joiners: {error}") from None
    return parameters
