"""All-reduce against torch.distributed's gloo: latency, throughput, CPU, and the ratio from the same run.

Every rank is one process that holds both contestants and runs them in turn on its own random float32 tensor, so that
both see the same machine at the same time; every result is compared with the other's.

    python benchmarks/all_reduce.py --against gloo [--worlds 2,4] [--sizes 4K,1M,25M,100M] [--json]

Latency is the slowest rank's median; GB/s is tensor bytes over latency (algorithm bandwidth); CPU-s is the sum over
all ranks of user and system time per operation.  Packing into and out of the flat buffer is included.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any, Protocol

DRIVERS = ("links", "gloo")


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
    """A way to sum a tensor over all ranks, in place."""

    def all_reduce(self, tensor: Any) -> None: ...

    def close(self) -> None: ...


class Gloo:
    """torch.distributed's own."""

    def all_reduce(self, tensor: Any) -> None:
        import torch.distributed as dist

        dist.all_reduce(tensor)

    def close(self) -> None:
        pass


class Links:
    """``Attempt`` over ``Link``: the data plane of this package, without its agreement."""

    def __init__(self, rank: int, world: int, chunk_bytes: int) -> None:
        import uvloop

        from lepton_p2p.collectives.buffers import BufferPool
        from lepton_p2p.rounds.patience import Patience, PatienceConfig

        self.rank, self.world, self.chunk_bytes = rank, world, chunk_bytes
        self.loop = uvloop.new_event_loop()
        self.pool = BufferPool()
        self.patience = Patience(PatienceConfig.lan())
        self.round = 0
        self.loop.run_until_complete(self._start())

    async def _start(self) -> None:
        import torch.distributed as dist

        from lepton_p2p.identity import PeerId, PeerInfo
        from lepton_p2p.rounds.epoch import Ballot, Epoch, Member
        from lepton_p2p.transport.links import Arrivals, LinkHub, Purpose

        ids = [PeerId(f"{rank:032x}") for rank in range(self.world)]
        members = tuple(Member(PeerInfo(one, "127.0.0.1:1"), 1) for one in ids)
        self.me = ids[self.rank]
        self.epoch = Epoch(1, Ballot(1, ids[0]), members)
        self.hub = LinkHub(self.me, host="127.0.0.1", handshake_timeout=30)
        await self.hub.start()
        self.arrivals = Arrivals()
        left = self.loop.create_future()

        def accept(link: Any) -> None:
            self.arrivals.accept(link)
            left.set_result(None)

        self.hub.serve(Purpose.RING, accept)
        tickets: list[Any] = [None] * self.world
        dist.all_gather_object(tickets, self.hub.issue_ticket(self.epoch.left_of(self.me), Purpose.RING))
        right = (self.rank + 1) % self.world
        self.right = await self.hub.open(ids[right], "127.0.0.1", tickets[right], Purpose.RING)
        await left  # this loop stands still between operations: everybody must be connected before

    def all_reduce(self, tensor: Any) -> None:
        self.loop.run_until_complete(self._all_reduce(tensor))

    async def _all_reduce(self, tensor: Any) -> None:
        from lepton_p2p.collectives.attempt import Attempt
        from lepton_p2p.collectives.operations import Op
        from lepton_p2p.collectives.packing import Packed
        from lepton_p2p.rounds.records import Record

        self.round += 1
        packed = Packed.pack([tensor], Op.SUM, pool=self.pool)
        work = self.pool.take(packed.total)
        done = self.loop.create_future()
        attempt = Attempt(
            epoch=self.epoch,
            round=self.round,
            me=self.me,
            layout=packed.layout(self.world, chunk_bytes=self.chunk_bytes),
            reduce_hops=packed.reduce_hops(self.world),
            op=Op.SUM,
            source=packed.source(self.rank),
            work=work,
            record=Record(self.me, 1.0, packed.schema).encode(),
            inspect=lambda records: None,
            right=self.right,
            arrivals=self.arrivals,
            patience=self.patience,
            on_done=done.set_result,
            on_broken=lambda broken: done.set_exception(RuntimeError(broken.reason)),
        )
        attempt.start()
        await done
        packed.unpack(work, [tensor])
        await self.right.drained()
        self.pool.give(work)
        packed.release()

    def close(self) -> None:
        async def finish() -> None:
            # Let the neighbours read the last bytes before the links go.
            self.right.close()
            await self.hub.close()

        self.loop.run_until_complete(finish())
        self.loop.close()


def cases(sizes: list[int], scale: float) -> list[Case]:
    """More repetitions for small sizes, so that each takes about as long."""
    found = []
    for nbytes in sizes:
        repeat = int(scale * min(300, max(7, (400 << 20) // max(nbytes, 1))))
        found.append(Case(nbytes, max(2, repeat // 10), max(3, repeat)))
    return found


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def measure(driver: Driver, tensor: Any, original: Any) -> tuple[float, float]:
    """Seconds and CPU-seconds of one operation that starts at the same time on all ranks."""
    import torch.distributed as dist

    tensor.copy_(original)
    dist.barrier()
    cpu, start = cpu_seconds(), time.perf_counter()
    driver.all_reduce(tensor)
    return time.perf_counter() - start, cpu_seconds() - cpu


def rank_main(spec: dict[str, Any]) -> None:
    """One rank: prints a JSON object ``{driver: {nbytes: [seconds, cpu]}}``, one list entry per repetition."""
    import torch
    import torch.distributed as dist

    rank, world = spec["rank"], spec["world"]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{spec['port']}", rank=rank, world_size=world)
    drivers: dict[str, Driver] = {}
    for name in spec["drivers"]:
        drivers[name] = Gloo() if name == "gloo" else Links(rank, world, spec["chunk"])
    results: dict[str, dict[str, list[tuple[float, float]]]] = {name: {} for name in drivers}
    generator = torch.Generator().manual_seed(rank)
    for case in (Case(*one) for one in spec["cases"]):
        original = torch.randn(case.nbytes // 4, generator=generator)
        tensors = {name: torch.empty_like(original) for name in drivers}
        for repetition in range(case.warmup + case.repeat):
            for name, driver in drivers.items():
                sample = measure(driver, tensors[name], original)
                if repetition >= case.warmup:
                    results[name].setdefault(str(case.nbytes), []).append(sample)
        reference = original.clone()
        dist.all_reduce(reference)
        for name, tensor in tensors.items():
            torch.testing.assert_close(tensor, reference, rtol=1e-5, atol=1e-5, msg=f"{name}: wrong result")
    dist.barrier()
    for driver in drivers.values():
        driver.close()
    print(json.dumps(results), flush=True)
    dist.destroy_process_group()


def run_world(world: int, spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Start ``world`` ranks and collect what they print."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, "--rank", json.dumps({**spec, "rank": rank, "world": world, "port": port})],
            stdout=subprocess.PIPE,
            env=env,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        outputs = [process.communicate(timeout=600)[0] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    if any(process.returncode for process in ranks):
        raise SystemExit(f"a rank failed: exit codes {[process.returncode for process in ranks]}")
    return [json.loads(output.strip().splitlines()[-1]) for output in outputs]


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
    parser.add_argument("--chunk", default="1M", help="largest chunk")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        rank_main(json.loads(options.rank))
        return
    plan = cases([parse_size(one) for one in options.sizes.split(",")], options.scale)
    spec = {
        "drivers": DRIVERS,
        "chunk": parse_size(options.chunk),
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
