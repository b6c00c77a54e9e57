"""The rumours that still have to be told, fewest-told first."""

from __future__ import annotations

from collections.abc import Collection

from lepton_p2p.identity import PeerId
from lepton_p2p.membership.messages import Rumour


class Broadcasts:
    """At most one rumour per subject; a newer one replaces the older and starts from zero."""

    def __init__(self) -> None:
        # _levels[t] holds what was told t times, oldest first: taking never has to sort.
        self._levels: list[dict[PeerId, Rumour]] = []
        self._told: dict[PeerId, int] = {}

    def __len__(self) -> int:
        return len(self._told)

    def __contains__(self, subject: PeerId) -> bool:
        return subject in self._told

    def put(self, rumour: Rumour) -> None:
        """Tell ``rumour`` from now on, instead of what was told of its subject before."""
        self.drop(rumour.peer.id)
        self._file(rumour, 0)

    def drop(self, subject: PeerId) -> None:
        """Tell nothing of ``subject`` any more."""
        told = self._told.pop(subject, None)
        if told is not None:
            del self._levels[told][subject]

    def take(self, room: int, limit: int, skip: Collection[PeerId] = ()) -> list[Rumour]:
        """Up to ``room`` rumours to put on a packet, newest of the least told first.

        Each counts as told once more and is dropped after ``limit`` times.  Subjects in ``skip`` are on the
        packet already.
        """
        if not self._told:
            return []
        chosen: list[tuple[int, Rumour]] = []
        for told, level in enumerate(self._levels):
            for subject in reversed(level):
                if len(chosen) >= room:
                    break
                if subject not in skip:
                    chosen.append((told, level[subject]))
        for told, rumour in reversed(chosen):
            self.drop(rumour.peer.id)
            if told + 1 < limit:
                self._file(rumour, told + 1)
        return [rumour for _, rumour in chosen]

    def _file(self, rumour: Rumour, told: int) -> None:
        while len(self._levels) <= told:
            self._levels.append({})
        self._levels[told][rumour.peer.id] = rumour
        self._told[rumour.peer.id] = told
