"""The conditions of one run, drawn from its seed: how bad the network is, and how wrong the clocks are."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from lepton_p2p.simulation.machine import Clock

CALM = 0.002
"""Share of control calls that fail after the network has healed (TCP has repaired the rest)."""


@dataclass(frozen=True, slots=True)
class Weather:
    """What holds all the time, in contrast to mishaps.

    delay: usual seconds on the way, one direction.  tail: share of deliveries that take up to ``slow`` times as long
    (Pareto).  loss: share of control messages that vanish; on links it costs a retransmission instead.  twice: share
    that arrives twice.  flips: share of link frames with a flipped bit.  skew: seconds by which clocks may be off;
    drift: share by which they may run too fast or too slow.
    """

    delay: float = 0.001
    tail: float = 0.0
    slow: float = 100.0
    loss: float = 0.0
    twice: float = 0.0
    flips: float = 0.0
    skew: float = 0.0
    drift: float = 0.0

    @classmethod
    def draw(cls, rng: random.Random, kinds: frozenset[str]) -> Weather:
        """A day of those on which ``kinds`` of faults happen."""

        def some(kind: str, most: float) -> float:
            # Mostly mild, now and then as bad as it gets; every third day without.
            return most * rng.random() ** 2 if kind in kinds and rng.random() < 2 / 3 else 0.0

        return cls(
            delay=10 ** rng.uniform(-4, -1.5),
            tail=some("delay", 0.1),
            loss=some("loss", 0.3),
            twice=some("duplicate", 0.2),
            flips=some("flip", 0.002),
            skew=some("clock", 86_400.0),
            drift=some("clock", 0.05),
        )

    def calm(self) -> Weather:
        """The same after the network has healed; clocks stay wrong."""
        return replace(self, tail=0.0, loss=min(self.loss, CALM), twice=0.0, flips=0.0)

    def travel(self, rng: random.Random) -> float:
        """Seconds that one delivery takes."""
        seconds = self.delay * (0.5 + rng.random())
        if self.tail and rng.random() < self.tail:
            seconds *= min(self.slow, rng.paretovariate(1.0))
        return seconds

    def clock(self, rng: random.Random) -> Clock:
        """That of one more process."""
        return Clock(rng.uniform(-self.skew, self.skew), 1.0 + rng.uniform(-self.drift, self.drift))
