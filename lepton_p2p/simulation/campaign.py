"""Many seeds, over all cores, and what they add up to."""

from __future__ import annotations

import itertools
import multiprocessing
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from lepton_p2p.simulation.gossip_swarm import swarm_of
from lepton_p2p.simulation.plan import Outcome, Plan, Sums

_AT_ONCE = 8
"""Seeds that a worker takes at a time: enough that handing them out costs nothing."""


@dataclass(slots=True, kw_only=True)
class Tally(Sums):
    """Sums over outcomes.  recoveries: of each healed swarm, seconds, in no order."""

    seeds: int = 0
    recoveries: list[float] = field(default_factory=list)
    violations: list[Outcome] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """And one more."""
        self.seeds += 1
        self.count(outcome)
        if outcome.violation:
            self.violations.append(outcome)
        else:
            self.recoveries.append(outcome.recovery)

    @property
    def seeds_per_cpu_minute(self) -> float:
        """How fast it went."""
        return 60 * self.seeds / self.cpu if self.cpu else 0.0


def run(plan: Plan) -> Outcome:
    """One seed; an error that is the simulator's own says with which seed it came."""
    began = time.process_time()
    try:
        outcome = swarm_of(plan).run()
    except Exception as error:
        error.add_note(f"in the story of seed {plan.seed}")
        raise
    outcome.cpu = time.process_time() - began
    return outcome


def sweep(plans: Iterable[Plan], workers: int) -> Iterator[Outcome]:
    """The outcomes of ``plans``, in the order in which they come; the workers end with the iteration."""
    if workers == 1:
        yield from map(run, plans)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, initializer=_leave_signals_to_the_parent) as pool:
        yield from pool.imap_unordered(run, plans, _AT_ONCE)


def _leave_signals_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def plans(first: int, count: int, template: Plan) -> Iterator[Plan]:
    """``template`` with ``count`` seeds from ``first`` on."""
    return (template.of(seed) for seed in itertools.islice(itertools.count(first), count))
