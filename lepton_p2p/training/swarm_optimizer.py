"""The optimizer that a program's own loop sees: the program's, with a round of the swarm before every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from lepton_p2p.rounds.result import RoundResult
from lepton_p2p.training.plain import PlainTraining


class SwarmOptimizer(torch.optim.Optimizer):
    """``step()`` averages the gradients of all members in one atomic round, then steps the ``wrapped`` optimizer.

    Groups and state are those of the wrapped optimizer, so learning rate schedulers work on either.  The learning rate
    and the other numbers of the groups are the same on all members in every step: those of the member that has been
    there longest.  Hooks run around the wrapped step, with the averaged gradients, on all members, in every step, and
    also when a newcomer replays a step; so they are the place for what must see the mean, such as clipping::

        optimizer.register_step_pre_hook(lambda *_: torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0))

    What a hook does must depend on model, gradients and optimizer only, otherwise the replicas part.

    After a step ``parameter.grad`` holds the mean; call ``zero_grad()`` as ever.  Parameters without a gradient count
    as zeros; those for which nobody has one are left alone, as torch does.
    """

    def __init__(self, wrapped: torch.optim.Optimizer, training: PlainTraining) -> None:
        # Not super().__init__(): that would make groups and hooks of its own.
        self.wrapped = wrapped
        self._training = training

    def step(self, closure: Callable[[], Any] | None = None, *, weight: float | None = None) -> Any:
        """One step of the swarm; blocks until all members have called theirs.

        ``closure`` is evaluated once, before the round, and its value returned.  ``weight``: how much this peer's
        gradient counts, in proportion to the others'; by default the number of samples that the loader gave, and 1 for
        programs without ``swarm.dataloader``, which should pass ``weight=len(batch)``.

        A peer that has no loader and comes late, or was dropped, gets the swarm's state in here; its own gradient,
        which belongs to another state, does not count then.

        Raises :class:`SchemaMismatch` (models or calls differ between peers), :class:`RoundRejected`,
        :class:`StateLost`, :class:`Closed`, and ``RuntimeError`` if there is no batch that it could be for.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._training.step(weight)
        return loss

    @property
    def steps(self) -> int:
        """Steps of the swarm since the training began, those included that others made before this peer joined."""
        return self._training.cursor.step

    @property
    def last_result(self) -> RoundResult | None:
        """What happened in the last round: members, contributors, who was lost, bytes, seconds."""
        return self._training.last_result

    # -- what belongs to the wrapped optimizer -------------------------------------------------------

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        return self.wrapped.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        return self.wrapped.state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        return self.wrapped.defaults

    def state_dict(self) -> dict[str, Any]:
        return self.wrapped.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Only before the first step, and the same on all peers that start together; ``RuntimeError`` later."""
        if self._training.replica.begun:
            raise RuntimeError("the training has begun: load the optimizer's state before the first step")
        self.wrapped.load_state_dict(state_dict)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.wrapped.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refused: the members have agreed on what they average."""
        raise RuntimeError("add parameter groups to the optimizer before swarm.optimizer()")

    def register_step_pre_hook(self, hook: Any) -> Any:
        return self.wrapped.register_step_pre_hook(hook)

    def register_step_post_hook(self, hook: Any) -> Any:
        return self.wrapped.register_step_post_hook(hook)

    def register_state_dict_pre_hook(self, hook: Any, prepend: bool = False) -> Any:
        return self.wrapped.register_state_dict_pre_hook(hook, prepend)

    def register_state_dict_post_hook(self, hook: Any, prepend: bool = False) -> Any:
        return self.wrapped.register_state_dict_post_hook(hook, prepend)

    def register_load_state_dict_pre_hook(self, hook: Any, prepend: bool = False) -> Any:
        return self.wrapped.register_load_state_dict_pre_hook(hook, prepend)

    def register_load_state_dict_post_hook(self, hook: Any, prepend: bool = False) -> Any:
        return self.wrapped.register_load_state_dict_post_hook(hook, prepend)

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("an optimizer of a swarm cannot be pickled: save optimizer.state_dict()")

    def __repr__(self) -> str:
        return f"SwarmOptimizer({self.wrapped!r})"
