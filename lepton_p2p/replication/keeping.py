"""What is kept for others, each thing for as long as somebody that it was made for still needs it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Generic, TypeVar

from lepton_p2p.identity import PeerId

T = TypeVar("T")


class Keeping(Generic[T]):
    """Snapshots (or anything else) by round, and the peers that wait for each."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[T, frozenset[PeerId]]] = {}

    def hold(self, round: int, thing: T, peers: Iterable[PeerId]) -> None:
        """Keep ``thing`` until all ``peers`` are settled; the first one of a round stays."""
        first, waiting = self._kept.get(round, (thing, frozenset()))
        self._kept[round] = (first, waiting.union(peers))

    def get(self, round: int) -> T | None:
        """What is kept of ``round``."""
        kept = self._kept.get(round)
        return kept[0] if kept else None

    def rounds(self) -> tuple[int, ...]:
        """Of which there is something, ascending."""
        return tuple(sorted(self._kept))

    def settle(self, *, members: Collection[PeerId], done: Collection[PeerId]) -> None:
        """After a round: peers that are ``done``, or no longer ``members``, need nothing any more."""
        for round, (thing, waiting) in tuple(self._kept.items()):
            still = waiting.intersection(members).difference(done)
            if still:
                self._kept[round] = (thing, still)
            else:
                del self._kept[round]

    def clear(self) -> None:
        """Keep nothing."""
        self._kept.clear()
