"""All-reduce against torch.distributed's gloo: latency, throughput, CPU, and the ratio from the same run.

    python benchmarks/all_reduce.py --against gloo [--worlds 2,4] [--sizes 4K,1M,25M,100M] [--json]

Every rank is one process that holds all contestants and runs them in turn on its own random float32 tensor, so that
all see the same machine at the same time; every result is compared with gloo's.  The contestants: *lepton*, a
``Peer`` as installed (peers on one machine share memory); *lepton-tcp*, a ``Peer`` whose tensors go through sockets,
as between machines; *lepton-sealed*, the same with sealed links; *gloo*, which has no encryption.

Latency is the median over the repetitions of the slowest rank; GB/s is tensor bytes over latency (algorithm
bandwidth); CPU is the sum over all ranks of user and system time per operation, of the whole process: failure
detection in the background is in it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

DRIVERS = ("lepton", "lepton-tcp", "lepton-sealed", "gloo")
_WARM = 6
"""Rounds before anything counts: in the first ones peers on one machine make themselves memory, and touch it."""


@dataclass(frozen=True)
class Case:
    """One size, with how often it is warmed up and measured."""

    nbytes: int
    warmup: int
    repeat: int


@dataclass(frozen=True)
class Row:
    """One contestant's figures for one world and size."""

    world: int
    nbytes: int
    driver: str
    seconds: float
    fastest: float
    gbps: float
    cpu_seconds: float
    speed_ratio: float
    cpu_ratio: float


class Driver(Protocol):
    """A way to sum a tensor over all ranks, in place; entered and left on all ranks."""

    async def __aenter__(self) -> Driver: ...

    async def __aexit__(self, *_: object) -> None: ...

    async def all_reduce(self, tensor: Any) -> tuple[float, float]:
        """Returns seconds and this process's CPU-seconds."""


class GlooThread:
    """torch.distributed blocks: its calls run in a thread of their own, so that the peers' loop stays awake."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "gloo")

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


class Gloo:
    """torch.distributed's own."""

    def __init__(self, gloo: GlooThread) -> None:
        self._gloo = gloo

    async def __aenter__(self) -> Gloo:
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    async def all_reduce(self, tensor: Any) -> tuple[float, float]:
        return await self._gloo.call(self._measure, tensor)

    @staticmethod
    def _measure(tensor: Any) -> tuple[float, float]:
        import torch.distributed as dist

        cpu, start = cpu_seconds(), time.perf_counter()
        dist.all_reduce(tensor)
        return time.perf_counter() - start, cpu_seconds() - cpu


class Swarm:
    """``Peer.all_reduce``, with everything that a swarm does besides: membership, records, digests, kept results."""

    def __init__(self, gloo: GlooThread, rank: int, world: int, *, sealed: bool = False, **options: Any) -> None:
        self._gloo, self._rank, self._world, self._sealed, self._options = gloo, rank, world, sealed, options

    async def __aenter__(self) -> Swarm:
        import torch.distributed as dist

        import lepton_p2p as lp

        seed: list[str] = [""]
        if self._rank == 0:
            self._peer = await self._make(lp).__aenter__()
            seed = [self._peer.address]
        await self._gloo.call(dist.broadcast_object_list, seed)
        if self._rank:
            self._peer = await self._make(lp, join=seed).__aenter__()
        await self._peer.wait_for_members(self._world, timeout=60)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._peer.leave()

    def _make(self, lp: Any, **options: Any) -> Any:
        peer = lp.Peer(preset="local", **self._options, **options)
        # On loopback there is no need for the credentials with which it comes; what it costs is the same.
        peer._options = replace(peer._options, sealed=self._sealed)
        return peer

    async def all_reduce(self, tensor: Any) -> tuple[float, float]:
        cpu, start = cpu_seconds(), time.perf_counter()
        await self._peer.all_reduce(tensor, op="sum")
        return time.perf_counter() - start, cpu_seconds() - cpu


def cases(sizes: list[int], scale: float) -> list[Case]:
    """More repetitions for small sizes, so that each takes about as long."""
    found = []
    for nbytes in sizes:
        repeat = int(scale * min(300, max(7, (400 << 20) // max(nbytes, 1))))
        found.append(Case(nbytes, max(_WARM, repeat // 10), max(3, repeat)))
    return found


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def rank_main(spec: dict[str, Any]) -> None:
    """One rank: writes a JSON object ``{driver: {nbytes: [seconds, cpu]}}``, one list entry per repetition."""
    import torch
    import torch.distributed as dist
    import uvloop

    from lepton_p2p.logging import configure_logging

    configure_logging("warning", "console")
    torch.set_num_threads(1)
    rank, world = spec["rank"], spec["world"]
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{spec['port']}", rank=rank, world_size=world)
    Path(spec["output"]).write_text(json.dumps(uvloop.run(compare(spec, rank, world))))
    dist.destroy_process_group()


async def compare(spec: dict[str, Any], rank: int, world: int) -> dict[str, dict[int, list[tuple[float, float]]]]:
    """All drivers on all cases, in turn."""
    import torch.distributed as dist

    gloo = GlooThread()
    makers: dict[str, Callable[[], Driver]] = {
        "lepton": lambda: Swarm(gloo, rank, world),
        "lepton-tcp": lambda: Swarm(gloo, rank, world, share_memory=False),
        "lepton-sealed": lambda: Swarm(gloo, rank, world, share_memory=False, sealed=True),
        "gloo": lambda: Gloo(gloo),
    }
    async with contextlib.AsyncExitStack() as stack:
        drivers = {name: await stack.enter_async_context(makers[name]()) for name in spec["drivers"]}
        results: dict[str, dict[int, list[tuple[float, float]]]] = {name: {} for name in drivers}
        for case in (Case(*one) for one in spec["cases"]):
            for name, samples in (await measure(case, drivers, gloo, rank)).items():
                results[name][case.nbytes] = samples
        await gloo.call(dist.barrier)
    return results


async def measure(
    case: Case, drivers: dict[str, Driver], gloo: GlooThread, rank: int
) -> dict[str, list[tuple[float, float]]]:
    """Seconds and CPU-seconds of each repetition; all ranks start each one together."""
    import torch
    import torch.distributed as dist

    original = torch.randn(case.nbytes // 4, generator=torch.Generator().manual_seed(rank))
    reference = original.clone()
    await gloo.call(dist.all_reduce, reference)
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in drivers}
    tensors = {name: torch.empty_like(original) for name in drivers}
    for repetition in range(case.warmup + case.repeat):
        for name, driver in drivers.items():
            tensors[name].copy_(original)
            await gloo.call(dist.barrier)
            sample = await driver.all_reduce(tensors[name])
            if repetition >= case.warmup:
                samples[name].append(sample)
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, reference, rtol=1e-5, atol=1e-5, msg=f"{name}: wrong result")
    return samples


def run_world(world: int, spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Start ``world`` ranks and collect what they found."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, f"{rank}.json") for rank in range(world)]
        specs = [
            {**spec, "rank": rank, "world": world, "port": port, "output": str(output)}
            for rank, output in enumerate(outputs)
        ]
        ranks = [subprocess.Popen([sys.executable, __file__, "--rank", json.dumps(one)], env=env) for one in specs]
        try:
            codes = [process.wait(timeout=600) for process in ranks]
        finally:
            for process in ranks:
                process.kill()
        if any(codes):
            raise SystemExit(f"a rank failed: exit codes {codes}")
        return [json.loads(output.read_text()) for output in outputs]


def rows(world: int, found: list[dict[str, Any]], against: str) -> list[Row]:
    """Medians and ratios.  A repetition's latency is that of its slowest rank."""
    table = []
    for nbytes in found[0][against]:
        figures = {}
        for driver in found[0]:
            samples = [one[driver][nbytes] for one in found]
            latencies = [max(rank[i][0] for rank in samples) for i in range(len(samples[0]))]
            cpu = statistics.mean(sum(rank[i][1] for rank in samples) for i in range(len(samples[0])))
            figures[driver] = (statistics.median(latencies), min(latencies), cpu)
        base, _, base_cpu = figures[against]
        for driver, (seconds, fastest, cpu) in figures.items():
            size = int(nbytes)
            ratio = cpu / base_cpu if base_cpu else float("nan")
            table.append(Row(world, size, driver, seconds, fastest, size / seconds / 1e9, cpu, base / seconds, ratio))
    return table


def show(table: list[Row], against: str) -> None:
    from rich.console import Console
    from rich.table import Table

    view = Table(title=f"all-reduce of float32, sum; speed and CPU relative to {against}")
    for column in ("peers", "size", "driver", "latency ms", "(best)", "GB/s", "CPU ms", "speed", "CPU"):
        view.add_column(column, justify="left" if column == "driver" else "right")
    for row in table:
        size = f"{row.nbytes >> 20} MiB" if row.nbytes >= 1 << 20 else f"{row.nbytes >> 10} KiB"
        view.add_row(
            str(row.world),
            size,
            row.driver,
            f"{row.seconds * 1e3:.2f}",
            f"{row.fastest * 1e3:.2f}",
            f"{row.gbps:.2f}",
            f"{row.cpu_seconds * 1e3:.2f}",
            f"{row.speed_ratio:.2f}",
            f"{row.cpu_ratio:.2f}",
        )
    Console(width=110).print(view)


def parse_size(text: str) -> int:
    """``4K``, ``25M`` or bytes."""
    factor = {"K": 1 << 10, "M": 1 << 20}.get(text[-1].upper(), 1)
    return int(text[:-1] if factor > 1 else text) * factor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", default="gloo", choices=["gloo"], help="what the ratios compare with")
    parser.add_argument("--worlds", default="2,4", help="numbers of peers")
    parser.add_argument("--sizes", default="4K,1M,25M,100M", help="tensor sizes")
    parser.add_argument("--scale", type=float, default=1.0, help="times as many repetitions")
    parser.add_argument("--drivers", default=",".join(DRIVERS), help="which contestants, gloo among them")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        rank_main(json.loads(options.rank))
        return
    plan = cases([parse_size(one) for one in options.sizes.split(",")], options.scale)
    spec = {
        "drivers": options.drivers.split(","),
        "cases": [[case.nbytes, case.warmup, case.repeat] for case in plan],
    }
    table = []
    for world in (int(one) for one in options.worlds.split(",")):
        table += rows(world, run_world(world, spec), options.against)
    if options.json:
        print(json.dumps([asdict(row) for row in table], indent=2))
    else:
        show(table, options.against)


if __name__ == "__main__":
    main()
