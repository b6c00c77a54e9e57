"""The command ``lepton-peer demo``."""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from lepton_p2p.cli.exit_codes import DEMO_FAILED
from lepton_p2p.cli.options import JSON
from lepton_p2p.cli.runner import run
from lepton_p2p.errors import ConfigError

if TYPE_CHECKING:
    from lepton_p2p.cli.demo.verdict import Outcome
    from lepton_p2p.jobs import Job


GOSSIP_PASSES = 4
"""How many times as many passes gossip makes: nobody waits, so that each of them takes a fraction of the time."""


class Strategy(StrEnum):
    """What the demo can train with."""

    ALL_REDUCE = "all_reduce"
    GOSSIP = "gossip"


def demo(
    strategy: Annotated[Strategy, typer.Option(help="How the replicas are kept together.")] = Strategy.ALL_REDUCE,
    peers: Annotated[int, typer.Option(help="Processes in the swarm.", min=2, max=16)] = 4,
    patience: Annotated[float, typer.Option(help="Seconds that any one stage may take.", min=1)] = 120.0,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Train on this machine with a few peers, kill the first, join a fresh one, and compare with one process.

    Exits with 0 only if everything in the last table held, with 30 if not.
    """
    from lepton_p2p.cli.demo.processes import DemoFailed  # torch and grpc: seconds that --help shall not cost

    if importlib.util.find_spec("sklearn") is None:
        raise ConfigError("the demo's data comes with scikit-learn: pip install 'lepton_p2p[demo]'")
    console = Console(stderr=as_json)
    try:
        with tempfile.TemporaryDirectory(prefix="lepton-demo-") as folder:
            alone = demo_job(Strategy.ALL_REDUCE)  # what one process trains; it needs no strategy
            outcome = run(play(demo_job(strategy), alone, peers, patience, Path(folder), console))
    except DemoFailed as error:
        print(f"lepton-peer: the demo failed: {error}", file=sys.stderr)
        raise typer.Exit(DEMO_FAILED) from None
    if as_json:
        print(json.dumps(outcome.to_dict()))
    else:
        console.print(outcome.table())
    if not outcome.passed:
        raise typer.Exit(DEMO_FAILED)


def demo_job(strategy: str) -> Job:
    """The job that comes with the package, ``lepton_p2p/jobs/demo.toml``, with another strategy.

    Gossip gets more passes, or a fresh peer would have started just before the end.
    """
    from lepton_p2p.jobs import job_from_table, parse_job

    job = parse_job((files("lepton_p2p.jobs") / "demo.toml").read_text(encoding="utf-8"), source="demo.toml")
    table = {**json.loads(job.to_json()), "strategy": strategy}
    if strategy == Strategy.GOSSIP:
        table["schedule"]["passes"] *= GOSSIP_PASSES
    return job_from_table(table, source="demo.toml")


async def play(job: Job, alone: Job, peers: int, patience: float, folder: Path, console: Console) -> Outcome:
    """Tell the story with processes that write into ``folder``; none is left at the end, whatever happens."""
    from lepton_p2p.cli.demo.display import Display
    from lepton_p2p.cli.demo.observer import Observer
    from lepton_p2p.cli.demo.processes import nursery
    from lepton_p2p.cli.demo.story import Plan, Story

    alone_file = folder / "alone.json"
    alone_file.write_text(alone.to_json(), encoding="utf-8")
    plan = Plan(job, alone_file, peers, patience)
    with nursery(folder) as processes, Display(console) as display:
        async with Observer(display.show) as observer:
            outcome = await Story(plan, processes, observer, display.say).tell()
        await processes.stop()
    return outcome
