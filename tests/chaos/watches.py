"""Waiting for good rounds: those of certain peers, all of which tell of it, after a certain moment."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from chaos.lineages import Round


@dataclass
class Watch:
    """Is ``done`` when ``peers`` have all told of one round after ``since`` to which all of them contributed.

    peers: names and ids.  gone: ids that must not be among its members.  whole: nobody has anything left to bring in.
    """

    since: float
    peers: dict[str, str]
    gone: frozenset[str] = field(default_factory=frozenset)
    whole: bool = False
    done: float | None = None
    """When the last of them told it."""

    def look(self, round: Round) -> None:
        """``round`` was told by somebody."""
        if self.done is not None or not round.contributors >= set(self.peers.values()):
            return
        times = [round.told.get(peer, 0.0) for peer in self.peers]
        if (
            min(times, default=0.0) > self.since
            and not round.members & self.gone
            and not (self.whole and round.carries)
        ):
            self.done = max(times)

    @property
    def seconds(self) -> float:
        """From the moment to the round."""
        assert self.done is not None
        return self.done - self.since


class Watches:
    """All that are open."""

    def __init__(self) -> None:
        self._open: list[Watch] = []

    def add(self, since: float, peers: dict[str, str], gone: Collection[str] = (), *, whole: bool = False) -> Watch:
        watch = Watch(since, peers, frozenset(gone), whole)
        self._open.append(watch)
        return watch

    def look(self, round: Round) -> None:
        self._open = [watch for watch in self._open if watch.done is None]
        for watch in self._open:
            watch.look(round)

    def forget(self) -> None:
        """Close all."""
        self._open.clear()
