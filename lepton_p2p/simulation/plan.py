"""What a seed stands for, and what came of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields, replace

STRATEGIES = ("all_reduce", "gossip", "both")
POLICIES = ("continue", "majority", "both")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a seed stands for: ``fewest`` to ``most`` peers (more may join).

    kinds: of faults that may happen.  storm: seconds during which they do.  strategy: "all_reduce", "gossip", or
    "both": then every eighth seed is a swarm that gossips.  partitions: "continue", "majority", or "both": then
    only one side may go on in every eighth swarm that is split.
    """

    seed: int
    fewest: int
    most: int
    kinds: frozenset[str]
    storm: float = 30.0
    strategy: str = "all_reduce"
    partitions: str = "continue"

    @property
    def gossips(self) -> bool:
        """Whether this seed is a swarm that gossips."""
        return self.strategy == "gossip" or (self.strategy == "both" and self.seed % 8 == 7)

    @property
    def majority(self) -> bool:
        """Whether this seed is a swarm of which one side goes on when it is split."""
        return self.partitions == "majority" or (self.partitions == "both" and self.seed % 8 == 3)

    def of(self, seed: int) -> Plan:
        """The same for another seed."""
        return replace(self, seed=seed)


@dataclass(slots=True, kw_only=True)
class Sums:
    """What is counted in one story or in many.

    simulated, cpu: seconds, in all and of computation.  rounds: decided; recovered: results fetched from others;
    retried: attempts after the first; steps: events.  united: branches that were brought in; doubled: samples that were
    used twice so; abandoned: branches that were given up; counted_high: brought in with more samples counted as used
    twice than were.  majorities: swarms of which one side goes on; waiting: those that in the end wait for a majority
    that is not there.  gossips: swarms that gossip; moved, returned, voided, died, lost: see ``Book``.
    """

    simulated: float = 0.0
    cpu: float = 0.0
    rounds: int = 0
    recovered: int = 0
    retried: int = 0
    steps: int = 0
    united: int = 0
    doubled: int = 0
    abandoned: int = 0
    counted_high: int = 0
    majorities: int = 0
    waiting: int = 0
    gossips: int = 0
    moved: int = 0
    returned: int = 0
    voided: int = 0
    died: int = 0
    lost: int = 0
    faults: Counter[str] = field(default_factory=Counter)

    def count(self, other: Sums) -> None:
        """And what ``other`` has counted."""
        for one in fields(Sums):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))


@dataclass(slots=True, kw_only=True)
class Outcome(Sums):
    """What came of a seed.

    violation: ``name: what was seen`` ("" if all is well).  peers: machines that there were in the end.  recovery:
    seconds from the healing to the recovery of the core.
    """

    seed: int
    violation: str = ""
    peers: int = 0
    recovery: float = 0.0
