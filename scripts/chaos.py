#!/usr/bin/env python3
"""Train on real processes while a seed decides what happens to them, and check every promise (`make chaos`).

    python scripts/chaos.py [--seed 7] [--minutes 10] [--peers 5] [--faults kill,isolate] [--json FILE]

As root every machine is a network namespace with a small disk of its own; nothing of it is left behind, however this
ends.  Otherwise all peers are on 127.0.0.1, and the kinds that need more are left out.  The exit code is 1 if a promise
was broken; what broke, the seed and the logs are named.  `--list` shows what a seed stands for.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "training_processes"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from chaos.kinds import KINDS
from chaos.schedule import schedule, usable
from network_namespaces import apart, impossible, live_apart


def main() -> int:
    options = _options()
    if options.list:
        story = schedule(options.seed, options.peers, usable(options.faults, {"network", "disk"}))
        print("\n".join(map(str, islice(story, 60))))
        return 0
    if options.containers:
        script = Path(__file__).with_name("test_swarm.sh")
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        os.environ |= {"SWARM_TESTS_MARK": "chaos", "SWARM_CHAOS_SEED": str(options.seed), "PATH": path}
        os.execv(script, [str(script), "-s"])
    available = frozenset()
    if not apart():
        why = "--loopback" if options.loopback else impossible()
        if not why:
            live_apart()
        left_out = [name for name in KINDS if name not in usable(list(KINDS), available)]
        print(f"all peers are on this machine's loopback ({why}): left out are {', '.join(left_out)}")
    else:
        available = frozenset(("network", "disk"))
    return asyncio.run(_run(options, available))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--minutes", type=float, default=0.0, help="0: one turn, in which every kind comes once")
    parser.add_argument("--peers", type=int, default=5, help="at least 3")
    parser.add_argument("--faults", type=lambda text: text.split(","), default=[], help=f"some of {', '.join(KINDS)}")
    parser.add_argument("--insecure", action="store_true", help="no credentials, links are not sealed")
    parser.add_argument("--loopback", action="store_true", help="no namespaces; peers share memory")
    parser.add_argument("--bound", type=float, default=60.0, help="seconds in which the swarm must be well again")
    parser.add_argument("--pace", type=float, default=0.02, help="seconds that every step takes at least")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    parser.add_argument("--logs", type=Path, help="keep what everybody logged there, also if all is well")
    parser.add_argument("--containers", action="store_true", help="docker kill, pause and network disconnect instead")
    parser.add_argument("--list", action="store_true", help="show what the seed stands for, and end")
    options = parser.parse_args()
    if unknown := [name for name in options.faults if name not in KINDS]:
        parser.error(f"unknown: {', '.join(unknown)}; kinds are {', '.join(KINDS)}")
    if options.peers < 3:
        parser.error("--peers: at least 3")
    return options


async def _run(options: argparse.Namespace, available: frozenset) -> int:
    from chaos.report import figures, table
    from chaos.runner import Plan, Run

    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    folder = options.logs or Path(tempfile.mkdtemp(prefix="lepton-chaos-"))
    plan = Plan(
        seed=options.seed,
        minutes=options.minutes,
        peers=options.peers,
        kinds=tuple(options.faults),
        available=available,
        sealed="network" in available and not options.insecure,
        bound=options.bound,
        pace=options.pace,
        folder=folder,
    )
    began = time.monotonic()
    try:
        async with Run.open(plan, lambda text: print(f"{time.monotonic() - began:7.1f} s {text}", flush=True)) as run:
            try:
                await run.go()
            except Exception as error:
                run.tally.violation = str(error).partition("\n")[0]
                story = [*traceback.format_exception(error), run.machines.swarm.story()]
                (folder / "violation.txt").write_text("".join(story))
                (folder / "rounds.txt").write_text("\n".join(run.oracle.history.tail()))
            found = figures(run)
    except asyncio.CancelledError:
        print(f"ended early; logs are in {folder}", file=sys.stderr)
        return 130
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    print(table(found))
    if run.tally.violation:
        again = f"--seed {plan.seed} --peers {plan.peers} --minutes {options.minutes:g}"
        print(f"\nVIOLATION: {run.tally.violation}\nseed {plan.seed} ({again}); logs and what everybody did: {folder}")
        return 1
    if not options.logs:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
