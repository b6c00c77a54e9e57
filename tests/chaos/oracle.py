"""History and samples together: what the peers of a run must not break, whatever is done to them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection

from samples import SampleCounter

from chaos.lineages import KEPT, History, Round, Violation

EVERY = 50
"""Rounds between two copies of the count, for going back to a checkpoint."""


class Oracle:
    """A ``History`` whose trunk is counted, sample by sample."""

    def __init__(self, counter: SampleCounter | None = None) -> None:
        self.history = History()
        self.on_broken: Callable[[Violation], None] = lambda violation: None
        self._counter = counter or SampleCounter()
        self._counted = 0
        self._copies: deque[tuple[Round, SampleCounter]] = deque(maxlen=KEPT // EVERY + 1)
        self._first = self._counter.copy()
        self._apart: deque[tuple[Round, SampleCounter]] = deque(maxlen=KEPT // EVERY + 1)
        """The count after what was done apart: a second one may come in that goes on from the first."""

    def broke(self, violation: Violation) -> None:
        """Somebody who cannot raise it has found it."""
        self.on_broken(violation)

    @property
    def passes(self) -> int:
        """Complete ones, with every sample exactly once."""
        return self._counter.passes

    @property
    def used(self) -> int:
        """Samples, since the beginning, those of a pass that is not complete included."""
        return self._counter.used

    @property
    def used_twice(self) -> int:
        """Since both sides of a split used them."""
        return self._counter.used_twice

    def settle(self, peers: Collection[str]) -> None:
        """``peers`` are all that live, and stand on the trunk in peace; see ``History.settle``."""
        for round in self.history.settle(peers):
            self._count(round)

    def go_back(self, peers: Collection[str]) -> int:
        """All had died, and ``peers`` have begun again from a checkpoint; how many steps that cost."""
        base = self.history.go_back(peers)
        trunk = self.history.trunk
        while self._copies and not self._copies[-1][0].on_trunk:
            self._copies.pop()
        begin, counter = self._copies[-1] if self._copies else (None, self._first)
        self._counter = counter.copy()
        for round in trunk[trunk.index(begin) + 1 if begin else 0 :]:
            self._count(round, copy=False)
        self.settle(peers)
        return self.history.reached_before - base.step

    def _count(self, round: Round, *, copy: bool = True) -> None:
        try:
            self._add(self._counter, round)
        except AssertionError as error:
            raise Violation("no sample lost, none counted twice", str(error)) from None
        self._counted += 1
        if copy and self._counted % EVERY == 0:
            self._copies.append((round, self._counter.copy()))

    def _add(self, counter: SampleCounter, round: Round) -> None:
        if round.brought:
            self._unite(counter, round)
        else:
            counter.add(round.entry())

    def _unite(self, counter: SampleCounter, round: Round) -> None:
        """What was done apart, since the last round that it has in common with the trunk, is brought in."""
        fork, end = round.brought[0].before, round.brought[-1]
        root = self._counter_after(fork)
        other = root.copy()
        for one in round.brought:
            self._add(other, one)
        self._apart.append((end, other.copy()))
        began = fork.samples if fork is not None else 0
        mine, theirs = round.before.samples - began if round.before else 0, end.samples - began
        counter.unite(other, root, theirs / (mine + theirs))
        said = round.line["metrics"].get("samples_used_twice", 0.0)
        assert said == counter.used_twice, f"{counter.used_twice} samples were used twice, {round} says {said}"

    def _counter_after(self, fork: Round | None) -> SampleCounter:
        """The count after an earlier round of the trunk."""
        known = next((counter for end, counter in self._apart if end is fork), None)
        if known is not None:
            return known.copy()
        trunk = self.history.trunk
        place = trunk.index(fork) if fork is not None else -1
        copies = [(trunk.index(at), counter) for at, counter in self._copies if at in trunk[: place + 1]]
        start, nearest = copies[-1] if copies else (-1, self._first)
        counter = nearest.copy()
        for round in trunk[start + 1 : place + 1]:
            self._add(counter, round)
        return counter
