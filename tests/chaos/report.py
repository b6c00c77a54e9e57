"""What a run has come to: as JSON and as a table."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chaos.figures import spread
from chaos.kinds import KINDS
from chaos.runner import Run

Figures = dict[str, Any]


def figures(run: Run) -> Figures:
    """Everything, with what is needed to do it again."""
    plan, tally, history = run.plan, run.tally, run.oracle.history
    return {
        "commit": _commit(),
        "machine": {"cores": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()},
        "seed": plan.seed,
        "peers": plan.peers,
        "world": "namespaces" if "network" in plan.available else "loopback",
        "sealed": plan.sealed,
        "seconds": round(tally.seconds, 1),
        "violation": tally.violation,
        "rounds": {
            "done": history.settled,
            "retried": history.retried,
            "fetched": history.recovered,
            "lost": tally.lost + history.rejected,
            "void": history.void,
            "united": history.united,
        },
        "samples": {"used": run.oracle.used, "passes": run.oracle.passes, "twice": run.oracle.used_twice},
        "lost_steps_by_deaths_of_all": tally.lost_steps,
        "disturbances": sum(map(len, tally.recoveries.values())),
        "kinds": dict(sorted(tally.happened.items())),
        "recovery": spread(_recoveries(run, lambda name: True)),
        "recovery_from_deaths": spread(_recoveries(run, _is_death)),
        "recovery_from_others": spread(_recoveries(run, lambda name: not _is_death(name))),
        "recovery_by_kind": {
            kind: spread(_recoveries(run, lambda name, kind=kind: name == kind)) for kind in sorted(KINDS)
        },
        "recovery_two_kinds_at_once": spread(_recoveries(run, lambda name: "+" in name)),
        "rejoin": spread(tally.rejoins),
        "usage": run.usage.figures(),
    }


def _recoveries(run: Run, wanted: Callable[[str], bool]) -> list[float]:
    """Of the disturbances whose name (see ``Disturbance.name``) is wanted."""
    return [seconds for name, values in run.tally.recoveries.items() if wanted(name) for seconds in values]


def _is_death(name: str) -> bool:
    return KINDS[name.partition("+")[0]].kills


def table(found: Figures) -> str:
    """For people, in Markdown."""
    rounds, usage = found["rounds"], found["usage"]
    lines = [
        ("seed, peers, world", f"{found['seed']}, {found['peers']}, {found['world']}{', sealed' * found['sealed']}"),
        ("minutes", f"{found['seconds'] / 60:.1f}"),
        ("rounds done", rounds["done"]),
        ("rounds retried; results fetched", f"{rounds['retried']}; {rounds['fetched']}"),
        ("**rounds lost**", f"**{rounds['lost']}**"),
        ("samples used; passes, each sample once", "{used}; {passes}".format(**found["samples"])),
        ("rounds that only the dead held, or nothing was done in", rounds["void"]),
        (
            "sides of splits that were brought in; samples used twice",
            f"{rounds['united']}; {found['samples']['twice']}",
        ),
        ("steps lost by deaths of all", ", ".join(map(str, found["lost_steps_by_deaths_of_all"])) or "-"),
        ("disturbances", found["disturbances"]),
        ("recovery p50 / p99 / max, deaths", _shown(found["recovery_from_deaths"])),
        ("recovery p50 / p99 / max, all else", _shown(found["recovery_from_others"])),
        ("rejoin p50 / p99 / max", _shown(found["rejoin"])),
        ("RSS slope", _per_hour(usage["rss_mib_per_hour"], "MiB")),
        ("descriptors' slope", _per_hour(usage["fds_per_hour"], "")),
    ]
    rows = [f"| {name} | {value} |" for name, value in lines]
    kinds = [
        f"| `{kind}` | {found['kinds'].get(kind, 0)} | {_shown(spread_of)} |"
        for kind, spread_of in found["recovery_by_kind"].items()
        if kind in found["kinds"]
    ]
    two = found["recovery_two_kinds_at_once"]
    kinds.append(f"| two at once | {two['count']} | {_shown(two)} |")
    head = ["| kind | times | next good round: p50 / p99 / max |", "| --- | --- | --- |"]
    return "\n".join(["| | |", "| --- | --- |", *rows, "", *head, *kinds])


def _shown(spread_of: Figures) -> str:
    return "{p50:.2f} / {p99:.2f} / {max:.2f} s".format(**spread_of) if spread_of["count"] else "-"


def _per_hour(value: float | None, unit: str) -> str:
    return "too short a run" if value is None else f"{value:+.2f} {unit} per hour".replace("  ", " ")


def _commit() -> str:
    here = Path(__file__).parent
    told = subprocess.run(["git", "-C", str(here), "describe", "--always", "--dirty"], capture_output=True, text=True)
    return told.stdout.strip() or "unknown"
