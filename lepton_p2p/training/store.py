"""Snapshots that are kept for joiners."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable

from lepton_p2p.identity import PeerId
from lepton_p2p.training.snapshots import Snapshot

_Still = Callable[[set[PeerId]], set[PeerId]]


class SnapshotStore:
    """Snapshots by round, each for as long as a peer that it was taken for still needs it.

    Thread-safe: the training thread holds and settles, the thread that serves joiners reads.  A reader that has got a
    snapshot may go on reading after its release; the memory goes when nobody has it any more.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[int, tuple[Snapshot, set[PeerId]]] = {}

    def hold(self, snapshot: Snapshot, peers: Iterable[PeerId]) -> None:
        """Keep ``snapshot`` (by its round) until all ``peers`` are settled."""
        with self._lock:
            _, waiting = self._kept.get(snapshot.round, (snapshot, set()))
            self._kept[snapshot.round] = (snapshot, waiting | set(peers))

    def get(self, round: int) -> Snapshot | None:
        """The snapshot of the state after ``round``, if it is kept."""
        with self._lock:
            kept = self._kept.get(round)
            return kept[0] if kept else None

    def rounds(self) -> tuple[int, ...]:
        """What is kept, ascending."""
        with self._lock:
            return tuple(sorted(self._kept))

    def release(self, peer: PeerId) -> None:
        """``peer`` needs nothing any more."""
        with self._lock:
            self._drop(lambda waiting: waiting - {peer})

    def settle(self, *, members: Collection[PeerId], done: Collection[PeerId]) -> None:
        """After a round: peers that are ``done``, or no longer ``members``, need nothing any more."""
        with self._lock:
            self._drop(lambda waiting: (waiting & set(members)) - set(done))

    def clear(self) -> None:
        """Keep nothing."""
        with self._lock:
            self._kept.clear()

    def _drop(self, still: _Still) -> None:
        left = {round: (snapshot, still(waiting)) for round, (snapshot, waiting) in self._kept.items()}
        self._kept = {round: kept for round, kept in left.items() if kept[1]}
