"""Which host can reach which, how long it takes, and how a call over it can go."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from enum import Enum, auto
from typing import Any

from lepton_p2p.simulation.scheduler import Scheduler
from lepton_p2p.simulation.weather import Weather


class Door(Enum):
    """What a call meets at its target."""

    OPEN = auto()
    STOPPED = auto()
    """A process that does not run now: it will find the message when it does."""
    SHUT = auto()
    """Nobody listens there, or one who speaks another version of the protocol."""


class Network:
    """Hosts are known by their addresses (``host:port``), one process each at a time.

    timeout: seconds after which a call that is not answered has failed.  ``counts`` tells how often each kind of fault
    happened, ``calls`` how many calls each host made.
    """

    def __init__(self, scheduler: Scheduler, rng: random.Random, weather: Weather, timeout: float) -> None:
        self.scheduler, self.rng, self.weather, self.timeout = scheduler, rng, weather, timeout
        self.counts: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._cuts: list[tuple[frozenset[str], frozenset[str]]] = []
        self._down: set[str] = set()
        self._clogged: dict[tuple[str, str], float] = {}
        self._passes: dict[tuple[str, str], bool] = {}  # whether no cut is between them; empty without cuts

    # -- its state ---------------------------------------------------------------------------------

    def reaches(self, source: str, target: str) -> bool:
        """Whether what ``source`` sends can get to ``target`` now."""
        if source in self._down or target in self._down:
            return False
        if self._cuts and not self._uncut(source, target):
            return False
        return not self._clogged or self._clogged.get((source, target), 0.0) <= self.scheduler.now

    def _uncut(self, source: str, target: str) -> bool:
        key = (source, target)
        passes = self._passes.get(key)
        if passes is None:
            cut = any(source in left and target in right for left, right in self._cuts)
            passes = self._passes[key] = not cut
        return passes

    def cut(self, sources: Iterable[str], targets: Iterable[str]) -> Callable[[], None]:
        """From now on nothing gets from ``sources`` to ``targets``; returns what ends it."""
        pair = (frozenset(sources), frozenset(targets))
        self._cuts.append(pair)
        self._passes.clear()

        def heal() -> None:
            if pair in self._cuts:
                self._cuts.remove(pair)
                self._passes.clear()

        return heal

    def clog(self, source: str, target: str, seconds: float) -> None:
        """Nothing gets through from ``source`` to ``target`` for a while."""
        self._clogged[source, target] = self.scheduler.now + seconds

    def power(self, host: str, *, on: bool) -> None:
        """A host without power answers nothing at all, not even that nobody listens."""
        (self._down.discard if on else self._down.add)(host)

    def heal(self, core: Collection[str]) -> None:
        """All of ``core`` reach each other from now on; all cuts end, and nothing clogs."""
        self._cuts.clear()
        self._clogged.clear()
        self._down.difference_update(core)
        self._passes.clear()

    # -- what passes through it ----------------------------------------------------------------------

    def travel(self) -> float:
        """Seconds that the next delivery takes."""
        return self.weather.travel(self.rng)

    def call(
        self,
        source: str,
        target: str,
        arrive: Callable[[], Door],
        ended: Callable[[bool], Any] = lambda ok: None,
        *,
        failures_only: bool = False,
    ) -> None:
        """One call from ``source`` to ``target``.

        ``arrive()`` happens at the target: perhaps twice, perhaps although the caller will never know.  ``ended(ok)``
        tells the caller: soon if it was refused, late if nothing comes back; of a success not if it wants to hear of
        ``failures_only`` (an event less).
        """
        rng, weather, after = self.rng, self.weather, self.scheduler.after
        self.calls[source] += 1
        there = self.travel()
        if not self.reaches(source, target):
            self.counts["unreachable"] += 1
            after(self.timeout, ended, False)
            return
        if weather.loss and rng.random() < weather.loss:
            self.counts["loss"] += 1
            if rng.random() < 0.5:
                after(there, arrive)  # it was the answer that was lost
            after(self.timeout, ended, False)
            return
        if weather.twice and rng.random() < weather.twice:
            self.counts["duplicate"] += 1
            after(there + 5 * self.travel(), arrive)
        if there > 4 * weather.delay:
            self.counts["delay"] += 1
        after(there, self._answer, arrive, ended, target, source, failures_only)

    def _answer(
        self, arrive: Callable[[], Door], ended: Callable[[bool], Any], target: str, source: str, failures_only: bool
    ) -> None:
        door = arrive()
        if door is Door.STOPPED or not self.reaches(target, source):
            self.scheduler.after(self.timeout, ended, False)
        elif door is Door.SHUT or not failures_only:
            self.scheduler.after(self.travel(), ended, door is Door.OPEN)
