"""What a peer held in lineages of its own, until the swarm has it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from lepton_p2p.replication.branch import Branch, share
from lepton_p2p.replication.cursor import Cursor
from lepton_p2p.replication.trail import Mark, common, fork

T = TypeVar("T")

MOST = 3
"""States that are carried at the same time, each as large as the replica: more than one, if a swarm splits again before
it has become one.  Beyond that the oldest is given up."""


def branch_of(held: Cursor, here: Cursor) -> Branch | None:
    """What a peer that held the state of ``held`` can bring to those that hold ``here``: None if there is nothing in it
    that they have not, or they have nothing in common.
    """
    root = _parting(held, here)
    if root is None or not _share(held, here):
        return None
    # The state before the last one, too: whoever missed the last round has nothing to bring once this is in.
    known = {mark.chain for mark in here.states}
    since = tuple(mark for mark in held.states[:-1] if mark.chain not in known)
    return Branch(
        root.chain, held.mark, since, held.pass_number, held.position, held.returned, held.skipped, held.gains
    )


def _parting(held: Cursor, here: Cursor) -> Mark | None:
    return fork(here.states, held.states, here.gains, held.gains)


def _share(held: Cursor, here: Cursor) -> float:
    root = _parting(held, here)
    return share(here.mark, held.mark, common(root, here.gains, held.gains)) if root is not None else 0.0


@dataclass(frozen=True, slots=True)
class Load(Generic[T]):
    """A state, the branch that it is for the swarm as that stands now, and its weight (0 to 1) in the mean."""

    state: T
    branch: Branch
    share: float


class Branches(Generic[T]):
    """States with their cursors: kept when a peer that holds the state is dropped, until the swarm has all of them.

    given_up(why, samples): a branch of so many samples, all in all, will not be brought in.
    """

    def __init__(self, given_up: Callable[[str, int], None]) -> None:
        self._kept: list[tuple[T, Cursor]] = []
        self._given_up = given_up

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, state: T, cursor: Cursor) -> None:
        """The swarm goes on from another state than this."""
        self._forget(cursor.chain)
        self._kept.append((state, cursor))
        if len(self._kept) > MOST:
            self._given_up("the swarm has split too often to carry all of it", self._kept.pop(0)[1].samples)

    def load(self, here: Cursor) -> Load[T] | None:
        """The first that the swarm, which is at ``here``, has not got; what it has is forgotten."""
        while self._kept:
            state, cursor = self._kept[0]
            root, branch = _parting(cursor, here), branch_of(cursor, here)
            if root is not None and branch is not None and here.unites:
                return Load(state, branch, _share(cursor, here))
            if branch is not None:
                self._given_up("where single peers are not trusted none can bring anything in", branch.end.samples)
            elif root is None and cursor.work:
                self._given_up("it has no state in common with the swarm's training", cursor.samples)
            self._kept.pop(0)
        return None

    def newest(self) -> T | None:
        """The one with the most work in it."""
        return max(self._kept, key=lambda kept: kept[1].work)[0] if self._kept else None

    @property
    def chain(self) -> int:
        """Names one that is kept; 0: there is none."""
        return self._kept[0][1].chain if self._kept else 0

    def refuse(self, chain: int) -> None:
        """The tensors that the bearer of ``chain`` brought were no numbers."""
        for cursor in self._forget(chain):
            self._given_up("its parameters have diverged", cursor.samples)

    def _forget(self, chain: int) -> list[Cursor]:
        gone = [cursor for _, cursor in self._kept if cursor.chain == chain]
        self._kept = [(state, cursor) for state, cursor in self._kept if cursor.chain != chain]
        return gone
