"""Membership alone, as the swarm grows: how fast the dead are found, how often the living are mistaken, what it costs.

The SWIM machines that a daemon runs, in virtual time and from a seed: the figures depend on neither this machine nor
what else it does.  Members lose their power (nothing answers there any more) between a fifth and three tenths of the
time.  Every packet is a call, and a share ``--loss`` of the calls fails: half of these never arrive, of the other half
only the answer is lost; the caller knows when the call has timed out.  A message takes half to one and a half times
the preset's usual delay.  Bytes are those of the protobuf messages that leave a peer, without what HTTP/2, TLS and TCP
add.

    python benchmarks/membership.py [--peers 1000] [--loss 0.05] [--seconds 120] [--kills 20] [--preset lan]
    python benchmarks/membership.py --table [--large] [--json FILE]
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import resource
import shlex
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from virtual_members import Observations, Plan, VirtualMembers

from lepton_p2p.presets import Preset

ROWS = (
    Plan(10, 300.0, 1, 0.0, "lan", 1, 20),
    Plan(100, 150.0, 5, 0.0, "lan", 1, 4),
    Plan(1000, 60.0, 20, 0.0, "lan", 1),
)
"""What ``--table`` measures, at each of ``LOSSES``: the same number of kills and of member-seconds for each size."""
LOSSES = (0.0, 0.05, 0.1)
LARGE = Plan(10_000, 45.0, 10, 0.0, "lan", 1)
"""And with ``--large``."""


@dataclass(frozen=True)
class Report:
    """One line of the table.

    first, median, p99, last: seconds from a kill until the first member knew of it (median over the kills), until a
    member knew (over all members and kills), until all did (the slowest kill).  missed: how often a member never did.
    false_deaths, false_suspicions: beliefs about members that ran, each counted at each member that held it, per
    hour of one member; mistaken: how many members were believed dead.  packets, bytes, quiet_bytes: per second and
    member, in all and by the kind of packet; quiet: before the kills.  signatures: made and verified, per second and
    member, where claims are signed.
    """

    plan: Plan
    first: float | None
    median: float | None
    p99: float | None
    last: float | None
    missed: int
    member_hours: float
    false_deaths: float
    false_suspicions: float
    mistaken: int
    packets: dict[str, float]
    bytes: dict[str, float]
    quiet_bytes: dict[str, float]
    signatures: dict[str, float]


def measure(plan: Plan) -> Report:
    """All swarms of ``plan``, each with a seed of its own."""
    seen = Observations()
    for number in range(plan.swarms):
        swarm = VirtualMembers(replace(plan, seed=plan.seed + number))
        gc.freeze()  # tables of a large swarm have 10^8 entries; looking through them again and again takes for ever
        seen.add(swarm.run())
        del swarm
        gc.unfreeze()
        gc.collect()
    return report(plan, seen)


def report(plan: Plan, seen: Observations) -> Report:
    """The figures that ``seen`` amounts to."""
    hours = seen.member_seconds / 3600
    return Report(
        plan=plan,
        first=_percentile(seen.first, 50),
        median=_percentile(seen.delays, 50),
        p99=_percentile(seen.delays, 99),
        last=_percentile(seen.last, 100),
        missed=seen.missed,
        member_hours=hours,
        false_deaths=seen.false_deaths / hours,
        false_suspicions=seen.false_suspicions / hours,
        mistaken=seen.mistaken,
        packets={kind: count / seen.member_seconds for kind, count in sorted(seen.packets.items())},
        bytes={kind: count / seen.member_seconds for kind, count in sorted(seen.bytes.items())},
        quiet_bytes={kind: count / seen.quiet_member_seconds for kind, count in sorted(seen.quiet_bytes.items())},
        signatures={kind: count / seen.member_seconds for kind, count in sorted(seen.signatures.items())},
    )


def _percentile(values: list[float], percent: float) -> float | None:
    return float(np.percentile(values, percent)) if values else None


def show(reports: list[Report], console: Console) -> None:
    """In a form that can be pasted into a page."""
    table = Table(box=box.MARKDOWN)
    heads = (
        "members",
        "loss",
        "first knows",
        "median",
        "p99",
        "all know",
        "false deaths",
        "false suspicions",
        "packets/s",
    )
    for head in (*heads, "bytes/s quiet", "bytes/s", "of that gossip", "of that exchanges"):
        table.add_column(head, justify="right")
    for line in reports:
        plan = line.plan
        times = [_seconds(value) for value in (line.first, line.median, line.p99, line.last)]
        wrong = [f"{value:.3g}" for value in (line.false_deaths, line.false_suspicions)]
        packets, quiet, all_bytes = (sum(each.values()) for each in (line.packets, line.quiet_bytes, line.bytes))
        parts = [f"{line.bytes.get(kind, 0.0):,.0f}" for kind in ("Gossip", "Sync")]
        cells = [f"{plan.peers:,}", f"{plan.loss:.0%}", *times, *wrong, f"{packets:.1f}", f"{quiet:,.0f}"]
        table.add_row(*cells, f"{all_bytes:,.0f}", *parts)
    console.print(table)
    for line in reports:
        if line.plan.signed:
            made, verified = (line.signatures.get(kind, 0.0) for kind in ("sign", "verify"))
            console.print(
                f"{line.plan.peers:,} members, {line.plan.loss:.0%} loss: "
                f"{made:.3f} signatures made and {verified:.3f} verified per second and member"
            )


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"


def write(reports: list[Report], path: Path) -> None:
    """As JSON, with where it comes from."""
    git = ("git", "-C", str(Path(__file__).parent))
    commit = subprocess.run((*git, "rev-parse", "HEAD"), capture_output=True, text=True, check=False).stdout.strip()
    origin = {
        "commit": commit or "unknown",
        "command": shlex.join(["python", "benchmarks/membership.py", *sys.argv[1:]]),
        "machine": f"{os.cpu_count()} cores, Python {platform.python_version()}",
        "peak_resident_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }
    path.write_text(json.dumps({**origin, "rows": [asdict(line) for line in reports]}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=int, default=1000, help="members of the swarm (default 1000)")
    parser.add_argument("--loss", type=float, default=0.05, help="share of calls that fail (default 0.05)")
    parser.add_argument("--seconds", type=float, default=120.0, help="virtual time (default 120)")
    parser.add_argument("--kills", type=int, default=20, help="members that lose their power (default 20)")
    parser.add_argument("--swarms", type=int, default=1, help="how many such swarms, one after the other (default 1)")
    parser.add_argument("--preset", choices=get_args(Preset), default="lan", help="time-outs and delays (default lan)")
    parser.add_argument("--seed", type=int, default=1, help="of all chance (default 1)")
    parser.add_argument("--signed", action="store_true", help="claims are signed, as in a swarm with credentials")
    parser.add_argument("--table", action="store_true", help="10, 100 and 1,000 members at 0, 5 and 10 %% loss instead")
    parser.add_argument("--large", action="store_true", help="with --table: 10,000 members too (minutes, 6 GB)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured to FILE")
    options = parser.parse_args()
    try:
        plan = Plan(
            options.peers,
            options.seconds,
            options.kills,
            options.loss,
            options.preset,
            options.seed,
            options.swarms,
            options.signed,
        )
    except ValueError as error:
        parser.error(str(error))
    plans = [plan]
    if options.table:
        plans = [replace(row, loss=loss, signed=options.signed) for row in ROWS for loss in LOSSES] + [
            LARGE
        ] * options.large
    elif options.large:
        parser.error("--large belongs to --table; for one large swarm say --peers 10000")
    reports = []
    for each in plans:
        reports.append(measure(each))
        print(f"{each.peers} members, {each.loss:.0%} loss: done", file=sys.stderr)
        if options.json:
            write(reports, options.json)  # after each: the large ones take long
    show(reports, Console(width=200))


if __name__ == "__main__":
    main()
