"""Snapshots that are kept for joiners."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable

from lepton_p2p.identity import PeerId
from lepton_p2p.replication.keeping import Keeping
from lepton_p2p.training.snapshots import Snapshot


class SnapshotStore:
    """Snapshots by round, each for as long as a peer that it was taken for still needs it (see ``Keeping``).

    Thread-safe: the training thread holds and settles, the thread that serves joiners reads.  A reader that has got a
    snapshot may go on reading after its release; the memory goes when nobody has it any more.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keeping: Keeping[Snapshot] = Keeping()

    def hold(self, snapshot: Snapshot, peers: Iterable[PeerId]) -> None:
        """Keep ``snapshot`` (by its round) until all ``peers`` are settled."""
        with self._lock:
            self._keeping.hold(snapshot.round, snapshot, peers)

    def get(self, round: int) -> Snapshot | None:
        """The snapshot of the state after ``round``, if it is kept."""
        with self._lock:
            return self._keeping.get(round)

    def rounds(self) -> tuple[int, ...]:
        """What is kept, ascending."""
        with self._lock:
            return self._keeping.rounds()

    def settle(self, *, members: Collection[PeerId], done: Collection[PeerId]) -> None:
        """After a round: peers that are ``done``, or no longer ``members``, need nothing any more."""
        with self._lock:
            self._keeping.settle(members=members, done=done)

    def clear(self) -> None:
        """Keep nothing."""
        with self._lock:
            self._keeping.clear()
