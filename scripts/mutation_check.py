"""Does the simulator notice?  Switches off one safety mechanism at a time and counts the seeds until it is caught.

    python scripts/mutation_check.py [--seeds 400] [--only NAME ...] [--json FILE]

Every mutant (``scripts/mutants``) must be caught; the untouched code must not be.  Exits with 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import signal
import sys
import time
from dataclasses import dataclass

from mutants import KINDS, MUTANTS

from lepton_p2p.simulation.campaign import run
from lepton_p2p.simulation.mishaps import FAULTS
from lepton_p2p.simulation.plan import Plan

UNTOUCHED = ("all_reduce", "gossip", "majority")
"""Kinds of swarms, and what is tried as it is."""

SPLITS = frozenset({"split", "one-way", "isolate", "loss", "pause", "join", "leave"})


@dataclass(frozen=True, slots=True)
class Verdict:
    """seeds: how many it took, None if it was not caught; what: the invariant that broke."""

    name: str
    what: str
    seeds: int | None
    broken: str
    seconds: float


def judge(name: str, most: int) -> Verdict:
    """Run seeds with the mutant ``name`` (or one of ``UNTOUCHED``) until an invariant breaks."""
    if name in MUTANTS:
        MUTANTS[name]()
    plan = _plan(name if name in UNTOUCHED else KINDS.get(name, "all_reduce"))
    began = time.monotonic()
    for seed in range(most):
        outcome = run(plan.of(seed))
        if outcome.violation:
            return _verdict(name, seed + 1, outcome.violation, began)
    return _verdict(name, None, "", began)


def _plan(kind: str) -> Plan:
    if kind == "majority":  # where peers die, most of these swarms wait for ever, and show nothing
        return Plan(0, 3, 7, SPLITS, partitions="majority")
    return Plan(0, 3, 10, frozenset(FAULTS), strategy=kind)


def _verdict(name: str, count: int | None, violation: str, began: float) -> Verdict:
    what = (MUTANTS[name].__doc__ or "").strip() if name in MUTANTS else "Nothing: the code as it is."
    shown = name if name in MUTANTS else f"(none) {name}"
    return Verdict(shown, what, count, violation, time.monotonic() - began)


def _judge(job: tuple[str, int]) -> Verdict:
    return judge(*job)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=400, help="within how many seeds a mutant must be caught")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help=f"of {', '.join(MUTANTS)}")
    parser.add_argument("--json", metavar="FILE", help="write the table there too")
    options = parser.parse_args()
    if unknown := set(options.only) - set(MUTANTS):
        parser.error(f"there is no mutant {', '.join(sorted(unknown))}")
    names = options.only or [*UNTOUCHED, *MUTANTS]
    verdicts = []
    # Every mutant in a process of its own: nothing is ever switched on again.
    leave_it_to_me = (signal.SIGINT, signal.SIG_IGN)
    context = multiprocessing.get_context("spawn")
    with context.Pool(initializer=signal.signal, initargs=leave_it_to_me, maxtasksperchild=1) as pool:
        for verdict in pool.imap(_judge, [(name, options.seeds) for name in names]):
            verdicts.append(verdict)
            caught = "not caught" if verdict.seeds is None else f"seed {verdict.seeds - 1}: {verdict.broken[:90]}"
            print(f"{verdict.name:36} {caught}", flush=True)
    if options.json:
        with open(options.json, "w") as file:
            json.dump([{k: getattr(v, k) for k in Verdict.__slots__} for v in verdicts], file, indent=1)
    escaped = [v.name for v in verdicts if (v.seeds is None) != (v.name not in MUTANTS)]
    caught_count = sum(v.seeds is not None for v in verdicts)
    print(f"{caught_count} caught within {options.seeds} seeds; wrong: {', '.join(escaped) or 'none'}")
    sys.exit(1 if escaped else 0)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
