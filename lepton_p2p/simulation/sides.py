"""Policy ``majority``: that of a split swarm one side at most goes on."""

from __future__ import annotations

from collections.abc import Iterable

from lepton_p2p.identity import PeerId


class Sides:
    """Which states follow which, and who was there.  States are named by their histories.

    Of the round that was under way at a split both sides may hold a result, but one only does another on top.  The
    others' may be gone on from if somebody who was there is among them, who knows what was done, and brings it in: then
    the first side is over.  It is, too, when all who were there have left: who leaves gives up its vote, and what
    nobody else has seen goes with it.  Swarms that were founded apart from the same state are no sides of one.
    """

    def __init__(self) -> None:
        self._follows: dict[int, int] = {}
        self._born: dict[int, int] = {}
        self._been: dict[int, set[PeerId]] = {}
        self._continued: dict[int, int] = {}
        self._over: dict[int, int] = {}
        self._left: set[PeerId] = set()

    def left(self, who: PeerId) -> None:
        """``who`` says goodbye."""
        self._left.add(who)

    def step(self, who: PeerId, before: int, after: int, members: Iterable[PeerId]) -> bool:
        """``who`` goes from one state to the next in a round of ``members``; whether that is right."""
        self._been.setdefault(after, set()).add(who)
        if after in self._follows:
            return True  # who catches up repeats what has been
        self._follows[after] = before
        self._born[after] = len(self._born)
        return not self._is_over(before) and self._goes_on(before, members)

    def _goes_on(self, before: int, members: Iterable[PeerId]) -> bool:
        base = self._follows.get(before)
        if base not in self._follows:
            return True
        other = self._continued.setdefault(base, before)
        if other == before:
            return True
        here = self._been[other] - self._left
        if here and here.isdisjoint(members):
            return False
        self._continued[base] = before
        self._over[other] = len(self._born)
        return True

    def _is_over(self, state: int) -> bool:
        """Whether it is of a side that others have left, and has come after that."""
        born = self._born.get(state)
        if not self._over or born is None:
            return False
        step: int | None = state
        while step is not None:
            if born >= self._over.get(step, born + 1):
                return True
            step = self._follows.get(step)
        return False
