"""The replicated state as named tensors and plain values, and back.

Names: ``param.<name>``, ``buffer.<name>``, ``optimizer.<index>.<key>`` with the parameter's index over all groups.
Nothing is pickled: what is not a tensor must be a plain value.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import xxhash
from torch import Tensor, nn

from lepton_p2p.errors import SchemaMismatch
from lepton_p2p.training.manifest import TensorSpec

MAX_STATE_TENSORS = 8
"""State tensors per parameter that a snapshot may hold; Adam with amsgrad has 4."""


def raw(tensor: Tensor) -> Tensor:
    """The tensor's bytes as a flat uint8 tensor on the CPU, in C order; a view where that is possible."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def model_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters, then buffers, in the model's own order."""
    for name, parameter in model.named_parameters():
        yield f"param.{name}", parameter
    for name, buffer in model.named_buffers():
        yield f"buffer.{name}", buffer


def params_digest(model: nn.Module) -> int:
    """xxh3_64 over the bytes of all parameters and buffers in order; never 0.  About 30 GB/s on the CPU."""
    digest = xxhash.xxh3_64()
    for _, tensor in model_tensors(model):
        digest.update(raw(tensor).numpy().data)
    return digest.intdigest() or 1


def digest_of_tensors(tensors: Mapping[str, Tensor]) -> int:
    """``params_digest`` of the model whose tensors, with those names and in that order, are among these."""
    digest = xxhash.xxh3_64()
    for name, tensor in tensors.items():
        if name.startswith(("param.", "buffer.")):
            digest.update(raw(tensor).numpy().data)
    return digest.intdigest() or 1


def digest_text(digest: int) -> str:
    """16 hex digits."""
    return f"{digest:016x}"


def _optimized(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """All state tensors, by parameter index, then key.  State that does not exist yet is left out."""
    for index, parameter in enumerate(_optimized(optimizer)):
        state = optimizer.state.get(parameter, {})
        for key in sorted(state):
            if isinstance(state[key], Tensor):
                yield f"optimizer.{index}.{key}", state[key]


def optimizer_values(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Everything of the optimizer that is not a tensor, JSON-able; ``TypeError`` names what is neither."""
    groups = [
        {key: _plain(key, value) for key, value in sorted(group.items()) if key != "params"}
        for group in optimizer.param_groups
    ]
    state: dict[str, dict[str, Any]] = {}
    for index, parameter in enumerate(_optimized(optimizer)):
        own = optimizer.state.get(parameter)
        if own is not None:
            plain = {key: _plain(key, own[key]) for key in sorted(own) if not isinstance(own[key], Tensor)}
            state[str(index)] = plain
    return {"groups": groups, "state": state}


def _plain(key: str, value: object) -> object:
    if isinstance(value, list | tuple):
        return [_plain(key, item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"the optimizer's {key!r} is a {type(value).__name__}: it must be a number, text or a list of them")


@dataclass(frozen=True)
class Schema:
    """What a joiner's own model and optimizer look like: the bound on what it accepts and allocates."""

    model: tuple[TensorSpec, ...]
    optimized: tuple[TensorSpec, ...]

    @classmethod
    def of(cls, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> Schema:
        """Names, dtypes and shapes of the model; of the parameters in the optimizer's order."""
        parameters = _optimized(optimizer) if optimizer is not None else []
        return cls(
            tuple(TensorSpec.of(name, tensor) for name, tensor in model_tensors(model)),
            tuple(TensorSpec.of(f"optimizer.{index}", tensor) for index, tensor in enumerate(parameters)),
        )

    def check(self, tensors: Sequence[TensorSpec]) -> None:
        """Raise :class:`SchemaMismatch` unless ``tensors`` (of a manifest) are those of such a model.

        A state tensor of the optimizer has at most the elements of its parameter and at most 8 bytes each; at most
        ``MAX_STATE_TENSORS`` per parameter.  So a lying manifest cannot make the joiner allocate more than that.
        """
        count = len(self.model)
        theirs = [(spec.name, spec.dtype, spec.shape) for spec in tensors[:count]]
        for index, own in enumerate(self.model):
            if index >= len(theirs) or theirs[index] != (own.name, own.dtype, own.shape):
                found = theirs[index] if index < len(theirs) else "nothing"
                raise SchemaMismatch(
                    f"the swarm's model differs: {own.name} is {own.dtype} {list(own.shape)} here, there {found}; "
                    "use the same job and the same version everywhere"
                )
        seen: dict[int, int] = {}
        for spec in tensors[count:]:
            index = self._parameter_of(spec)
            seen[index] = seen.get(index, 0) + 1
            if spec.numel > max(1, self.optimized[index].numel) or seen[index] > MAX_STATE_TENSORS:
                raise SchemaMismatch(f"the swarm's optimizer state {spec.name[:80]!r} does not fit its parameter")

    def _parameter_of(self, spec: TensorSpec) -> int:
        prefix, _, rest = spec.name.partition(".")
        index, _, key = rest.partition(".")
        if prefix != "optimizer" or not key or not index.isascii() or not index.isdigit():
            raise SchemaMismatch(f"the swarm's state has a tensor {spec.name[:80]!r} that this model has not")
        if len(index) > 9 or int(index) >= len(self.optimized):
            raise SchemaMismatch(f"the swarm's optimizer has more parameters than this one ({spec.name[:80]!r})")
        return int(index)


def load_model(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy into the model's parameters and buffers; the names were checked by ``Schema``."""
    with torch.no_grad():
        for name, tensor in model_tensors(model):
            tensor.copy_(tensors[name])


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Replace the optimizer's state, bit for bit; :class:`SchemaMismatch` (before any change) if it is of another kind.

    ``load_state_dict`` would cast state to the parameter's dtype; here nothing is cast.
    """
    groups = _checked_groups(optimizer, values)
    parameters = _optimized(optimizer)
    states = _checked_states(parameters, values)
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            states.setdefault(int(index), {})[key] = tensor
    for group, loaded in zip(optimizer.param_groups, groups, strict=True):
        group.update(loaded)
    optimizer.state.clear()
    indices = itertools.count()  # over all groups
    for group in optimizer.param_groups:
        stays = not (group.get("capturable") or group.get("fused"))
        for parameter in group["params"]:
            own = states.get(next(indices))
            if own is not None:
                optimizer.state[parameter] = {key: _placed(key, value, parameter, stays) for key, value in own.items()}


def _placed(key: str, value: object, parameter: nn.Parameter, step_on_cpu: bool) -> object:
    """Clone next to the parameter; step counters stay on the CPU, where torch keeps them for speed."""
    if not isinstance(value, Tensor):
        return value
    return value.clone() if key == "step" and step_on_cpu else value.to(parameter.device, copy=True)


def _checked_groups(optimizer: torch.optim.Optimizer, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    groups = values.get("groups")
    if not isinstance(groups, list) or len(groups) != len(optimizer.param_groups):
        raise SchemaMismatch("the swarm's optimizer has other parameter groups: use the same job everywhere")
    checked = []
    for own, theirs in zip(optimizer.param_groups, groups, strict=True):
        if not isinstance(theirs, dict) or set(theirs) != set(own) - {"params"}:
            raise SchemaMismatch("the swarm's optimizer has other options: use the same job and version everywhere")
        # JSON has no tuples; Adam's betas are one.
        checked.append({key: tuple(v) if isinstance(own[key], tuple) else v for key, v in theirs.items()})
    return checked


def _checked_states(parameters: list[nn.Parameter], values: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    state = values.get("state")
    known = {str(index): index for index in range(len(parameters))}
    if not isinstance(state, dict) or not set(state) <= set(known):
        raise SchemaMismatch("the swarm's optimizer has more parameters than this one: use the same job everywhere")
    return {known[index]: dict(plain) for index, plain in state.items()}
