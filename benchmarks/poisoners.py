"""What poisoners do to a training, and what robust aggregation leaves of it: the table in docs/robust-aggregation.md.

Eight peers in one process train an MLP on scikit-learn's handwritten digits: each computes the gradient of its own
batch and calls ``Peer.all_reduce``, over real links.  The last one or two of them are poisoners; the product knows
nothing of that.  All peers get the same bytes (the digests of every round are compared), so that one model is stepped
for all of them.

    python benchmarks/poisoners.py [--steps 150] [--seeds 1] [--json FILE]

sign flip: minus its gradient.  reversed x10: minus ten times its gradient.  x1000: a thousand times its gradient.  NaN:
one NaN in it, said to be finite.  label flip: an honest gradient for the labels 9 - y.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import uvloop
from torch import Tensor, nn

import lepton_p2p as lp
from lepton_p2p.collectives import packing
from lepton_p2p.logging import configure_logging
from lepton_p2p.models import DATASETS, MODELS

PEERS = 8
BATCH = 16
RULES: dict[str, lp.Aggregation | str] = {
    "mean": "mean",
    "clip": lp.Aggregation("clip"),
    "trimmed_mean": lp.Aggregation("trimmed_mean", trim=2),
    "median": lp.Aggregation("median"),
    "centered_clip": lp.Aggregation("centered_clip"),
}
ATTACKS = ("sign flip", "reversed x10", "x1000", "NaN", "label flip")


@dataclass(frozen=True)
class Row:
    """One training.  accuracy: on the test set, at the end; 0.1 is guessing.  rounds: that had a result."""

    rule: str
    attack: str
    poisoners: int
    seed: int
    accuracy: float
    loss: float
    rounds: int
    steps: int
    stopped: str
    seconds: float


@dataclass(frozen=True)
class Digits:
    """The data of one seed."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor

    def batches(self, seed: int) -> Iterator[list[Tensor]]:
        """For ever: disjoint indices for each peer."""
        generator = torch.Generator().manual_seed(seed)
        while True:
            order = torch.randperm(len(self.x), generator=generator)
            for start in range(0, len(order) - PEERS * BATCH + 1, PEERS * BATCH):
                yield list(order[start : start + PEERS * BATCH].view(PEERS, BATCH))


def gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """All gradients, flat."""
    model.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


def contribution(model: nn.Module, data: Digits, batch: Tensor, attack: str) -> Tensor:
    """What a peer brings; ``attack``: nothing for honest ones."""
    x, y = data.x[batch], data.y[batch]
    own = gradient(model, x, 9 - y if attack == "label flip" else y)
    if attack == "NaN":
        own[len(own) // 3] = math.nan
    return own * {"sign flip": -1.0, "reversed x10": -10.0, "x1000": 1000.0}.get(attack, 1.0)


class Liar(lp.Peer):
    """A peer that says of whatever it brings that it is finite."""

    async def _pack(self, *arguments: Any, **options: Any) -> packing.Packed:
        original = packing._is_sound
        packing._is_sound = lambda *_: True
        try:
            return await super()._pack(*arguments, **options)  # small tensors: nobody else has a turn in between
        finally:
            packing._is_sound = original


def digits(seed: int) -> tuple[Digits, nn.Module]:
    """Data and an untrained model."""
    (x, y), (test_x, test_y) = DATASETS.make("digits", {}, seed)
    torch.manual_seed(seed)
    return Digits(x, y, test_x, test_y), MODELS.make("mlp", {"sizes": [64, 128, 64, 10]})


async def train(peers: list[lp.Peer], rule: str, attack: str, poisoners: int, seed: int, steps: int) -> Row:
    """One training from the start; it ends early when the members agree that a round has no result."""
    data, model = digits(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    batches = data.batches(seed)
    began, rounds, stopped = time.monotonic(), 0, ""
    for _ in range(steps):
        attacks = [""] * (PEERS - poisoners) + [attack] * poisoners
        given = [contribution(model, data, batch, how) for batch, how in zip(next(batches), attacks, strict=True)]
        calls = (
            peer.all_reduce(own, weight=BATCH, aggregation=RULES[rule]) for peer, own in zip(peers, given, strict=True)
        )
        results = await together([asyncio.ensure_future(call) for call in calls])
        failed = [result for result in results if isinstance(result, BaseException)]
        if failed:
            stopped = "; ".join(sorted({str(error) for error in failed}))
            break
        assert len({result.digest for result in results if isinstance(result, lp.RoundResult)}) == 1, "replicas differ"
        rounds += 1
        step(model, optimizer, given[0])
    with torch.no_grad():
        out = model(data.test_x)
        accuracy = float((out.argmax(1) == data.test_y).float().mean())
        loss = float(nn.functional.cross_entropy(out, data.test_y))
    return Row(rule, attack, poisoners, seed, accuracy, loss, rounds, steps, stopped, time.monotonic() - began)


class Disturbed(Exception):
    """A busy machine made the swarm go on without one of the peers: this training has to be run again."""


async def together(calls: list[asyncio.Future[lp.RoundResult]]) -> list[lp.RoundResult | BaseException]:
    """What all calls of a round come to; nobody waits for one that was dropped."""
    await asyncio.wait(calls, return_when=asyncio.FIRST_EXCEPTION)
    dropped = [call for call in calls if call.done() and isinstance(call.exception(), lp.Dropped)]
    if dropped:
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        raise Disturbed
    return await asyncio.gather(*calls, return_exceptions=True)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, flat: Tensor) -> None:
    """The optimizer's step with ``flat`` as gradient."""
    start = 0
    for parameter in model.parameters():
        parameter.grad = flat[start : start + parameter.numel()].view_as(parameter).clone()
        start += parameter.numel()
    optimizer.step()


async def start_peers(stack: AsyncExitStack) -> list[lp.Peer]:
    """Eight in one epoch; the last two would say of anything that it is finite."""
    peers: list[lp.Peer] = []
    for number in range(PEERS):
        kind = Liar if number >= PEERS - 2 else lp.Peer
        join = [peers[0].address] if peers else []
        peers.append(await stack.enter_async_context(kind(listen="127.0.0.1:0", join=join, preset="lan")))
    await asyncio.gather(*(peer.wait_for_members(PEERS, timeout=60) for peer in peers))
    return peers


async def measure(steps: int, seeds: int) -> list[Row]:
    """All rows, one after the other, in one swarm; in another one after each disturbance."""
    rows = []
    cases = [("", 0)] + [(attack, count) for attack in ATTACKS for count in (1, 2)]
    todo = [(rule, *case, seed) for case in cases for rule in RULES for seed in range(1, seeds + 1)]
    while todo:
        with contextlib.suppress(Disturbed):
            async with AsyncExitStack() as stack:
                peers = await start_peers(stack)
                while todo:
                    rows.append(await train(peers, *todo[0], steps))
                    print(json.dumps(asdict(rows[-1])), file=sys.stderr, flush=True)
                    del todo[0]
    return rows


def table(rows: list[Row]) -> str:
    """In Markdown: test accuracy in per cent, the mean over the seeds."""
    lines = [
        "| poisoners of 8 | " + " | ".join(f"`{rule}`" for rule in RULES) + " |",
        "| --- |" + " ---: |" * len(RULES),
    ]
    for case in dict.fromkeys((row.attack, row.poisoners) for row in rows):
        cells = []
        for rule in RULES:
            found = [row for row in rows if (row.attack, row.poisoners) == case and row.rule == rule]
            cells.append(cell(found))
        attack, poisoners = case
        lines.append(f"| {f'{poisoners}: {attack}' if poisoners else 'none'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(rows: list[Row]) -> str:
    """What became of trainings of one kind."""
    if any(row.stopped for row in rows):
        return "diverged" if all(row.rounds for row in rows) else "no round"
    return f"{100 * sum(row.accuracy for row in rows) / len(rows):.1f}"


def write(rows: list[Row], path: Path) -> None:
    """As JSON, with where it comes from."""
    git = ("git", "-C", str(Path(__file__).parent))
    commit = subprocess.run((*git, "rev-parse", "HEAD"), capture_output=True, text=True, check=False).stdout.strip()
    origin = {
        "commit": commit or "unknown",
        "command": shlex.join(["python", "benchmarks/poisoners.py", *sys.argv[1:]]),
        "machine": f"{os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}",
    }
    path.write_text(json.dumps({**origin, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=150, help="rounds of each training (default 150)")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each kind (default 1)")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args()
    configure_logging("error")
    torch.set_num_threads(1)
    rows = uvloop.run(measure(options.steps, options.seeds))
    if options.json is not None:
        write(rows, options.json)
    print(table(rows))


if __name__ == "__main__":
    main()
