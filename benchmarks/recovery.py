"""How long a swarm stands still when a peer is killed: from the kill to the end of the next good round.

Real processes on this machine run one round after the other.  Again and again one of them, chosen at random, gets
SIGKILL at a random moment (or SIGSTOP, with ``--signal stop``: nothing but its silence tells); measured is the time
until the last survivor has the result of the first round without it.  A fresh process takes its place.  In between
every result is compared: the survivors must agree bit by bit.

    python benchmarks/recovery.py [--kills 20] [--peers 4] [--elements 65536] [--signal kill|stop] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "processes"))

from process_swarm import DEADLINE, Nursery, ProcessSwarm, Reply, Worker


@dataclass(frozen=True)
class Report:
    """Seconds over all kills; ``steady`` is the median of a round in which nothing happens."""

    signal: str
    kills: int
    median: float
    p90: float
    worst: float
    steady: float


async def first_without(worker: Worker, victim: Worker) -> Reply:
    """The first result of ``worker`` in which ``victim`` is no member."""
    async with asyncio.timeout(DEADLINE):
        while True:
            reply = await worker.rounds.get()
            if "error" in reply:
                raise SystemExit(f"worker {worker.number} failed: {reply['error']}: {reply['message']}")
            if victim.peer not in reply["members"]:
                return reply


async def everyone(workers: list[Worker], rounds: int) -> list[float]:
    """Let rounds of all workers pass; how long each took on the first of them."""
    ends = []
    for worker in workers:
        count = 0
        while count < rounds:
            async with asyncio.timeout(DEADLINE):
                reply = await worker.rounds.get()
            if len(reply.get("members", ())) == len(workers):
                count += 1
                if worker is workers[0]:
                    ends.append(reply["at"])
    return [after - before for before, after in itertools.pairwise(ends)]


def start_rounds(worker: Worker, elements: int) -> None:
    worker.ask("loop", seed=worker.number, sizes=[elements])


async def measure(options: argparse.Namespace, console: Console) -> Report:
    chance = random.Random(options.seed)
    number = signal.SIGKILL if options.signal == "kill" else signal.SIGSTOP
    seconds: list[float] = []
    steady: list[float] = []
    with tempfile.TemporaryDirectory() as logs:
        async with Nursery(Path(logs)) as nursery, ProcessSwarm(nursery) as swarm:
            await swarm.grow(options.peers)
            for worker in swarm.workers:
                start_rounds(worker, options.elements)
            for kill in range(options.kills):
                steady += await everyone(swarm.workers, 10)
                await asyncio.sleep(chance.random() * 0.05)  # any moment of a round, not its beginning
                victim = chance.choice(swarm.workers)
                began = time.monotonic()
                victim.signal(number)
                survivors = [worker for worker in swarm.workers if worker is not victim]
                replies = await asyncio.gather(*(first_without(worker, victim) for worker in survivors))
                if len({(reply["round"], reply["digest"]) for reply in replies}) != 1:
                    raise SystemExit("the survivors do not agree")
                seconds.append(max(reply["at"] for reply in replies) - began)
                if console.is_terminal:
                    console.print(f"{kill + 1:3d}  {seconds[-1] * 1000:7.1f} ms")
                victim.signal(signal.SIGKILL)
                swarm.bury(victim)
                await victim.gone()
                fresh = await nursery.start(join=[worker.address for worker in survivors])
                swarm.workers.append(fresh)
                start_rounds(fresh, options.elements)
    deciles = statistics.quantiles(seconds, n=10, method="inclusive")
    median, worst = statistics.median(seconds), max(seconds)
    return Report(options.signal, len(seconds), median, deciles[-1], worst, statistics.median(steady))


def show(report: Report, console: Console) -> None:
    table = Table(title=f"{report.kills} peers {'killed' if report.signal == 'kill' else 'stopped'}")
    for column in ("median", "p90", "worst", "a round without mishap"):
        table.add_column(column, justify="right")
    figures = (report.median, report.p90, report.worst, report.steady)
    table.add_row(*(f"{figure * 1000:.1f} ms" for figure in figures))
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="how many (default 20, at least 2)")
    parser.add_argument("--peers", type=int, default=4, help="processes in the swarm (default 4)")
    parser.add_argument("--elements", type=int, default=1 << 16, help="float32 values per round (default 65536)")
    parser.add_argument("--signal", choices=("kill", "stop"), default="kill", help="what is done to the victims")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of victims and moments")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    if options.kills < 2 or options.peers < 2:
        parser.error("at least two kills and two peers are needed")
    console = Console(stderr=options.json)
    report = asyncio.run(measure(options, console))
    if options.json:
        print(json.dumps(asdict(report)))
    else:
        show(report, console)


if __name__ == "__main__":
    main()
