"""What sealing costs: one link between two processes, open and sealed in turn, chunks of 1 MiB in one direction.

    python benchmarks/links.py [--repeat 15] [--megabytes 1024] [--json]

Both links are there all the time and take turns, so that they see the same machine; the figures are medians, the ratios
medians of the ratios of neighbouring runs.  CPU is user and system time of both processes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import statistics
import time
from multiprocessing.connection import Connection
from typing import Any

from lepton_p2p.identity import PeerId
from lepton_p2p.transport.links import Link, LinkHub, Purpose, Ticket
from lepton_p2p.transport.links.frames import MAX_PAYLOAD, Header, Kind, checksum, encode

HERE, THERE = PeerId("a" * 32), PeerId("b" * 32)
KINDS = {"open": False, "sealed": True}


class Sink:
    """Receives into the same memory again and again, and says when ``wanted`` frames have come."""

    def __init__(self, link: Link) -> None:
        self._memory = memoryview(bytearray(MAX_PAYLOAD))
        self._frames = 0
        self._link = link

    def admit(self, header: Header, extra: bytes) -> memoryview:
        self._wanted = header.round
        return self._memory

    def received(self, header: Header) -> None:
        self._frames += 1
        if self._frames == self._wanted:
            self._frames = 0
            self._link.send(encode(Kind.PUSHED))

    def corrupt(self, header: Header) -> None:
        raise AssertionError("corrupt")


class Done:
    """Waits for the one answer to all that was sent."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def admit(self, header: Header, extra: bytes) -> memoryview:
        return memoryview(bytearray(header.payload))

    def received(self, header: Header) -> None:
        self.answer.set_result(None)

    corrupt = received


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def call(pipe: Connection, *request: Any) -> Any:
    """Ask the other process without stopping the loop."""
    pipe.send(request)
    return await asyncio.to_thread(pipe.recv)


async def receive(pipe: Connection) -> None:
    """The other process: issues tickets, tells its CPU time, and ends when it is told nothing more."""
    hubs = {name: LinkHub(THERE, host="127.0.0.1", sealed=sealed) for name, sealed in KINDS.items()}
    for hub in hubs.values():
        hub.serve(Purpose.PUSH, lambda link: setattr(link, "handler", Sink(link)))
        await hub.start()
    while request := await asyncio.to_thread(pipe.recv):
        match request:
            case ("ticket", name, share):
                ticket = hubs[name].issue_ticket(HERE, Purpose.PUSH, share)
                pipe.send((ticket.port, ticket.token, ticket.share))
            case ("cpu",):
                pipe.send(cpu_seconds())
    for hub in hubs.values():
        await hub.close()


async def send(link: Link, count: int, payload: memoryview) -> None:
    """``count`` frames, each when the link takes it, until the remote has all of them."""
    digest, left = checksum(payload), count
    done = Done()
    link.handler = done

    def pump() -> None:
        nonlocal left
        while left and link.ready:
            left -= 1
            link.send(encode(Kind.PUSH, round=count, payload=payload.nbytes, payload_checksum=digest), payload)

    link.on_writable = pump
    pump()
    await done.answer
    link.on_writable = None


async def measure(pipe: Connection, repeat: int, megabytes: int) -> dict[str, Any]:
    hubs = {name: LinkHub(HERE, host="127.0.0.1", sealed=sealed) for name, sealed in KINDS.items()}
    links = {}
    for name, hub in hubs.items():
        share = hub.propose()
        ticket = Ticket(*await call(pipe, "ticket", name, b"" if share is None else share.public))
        links[name] = await hub.open(THERE, "127.0.0.1", ticket, Purpose.PUSH, share)
    payload = memoryview(bytearray(os.urandom(MAX_PAYLOAD)))
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in links}
    for run in range(repeat + 1):
        for name, link in links.items():
            cpu = cpu_seconds() + await call(pipe, "cpu")
            start = time.perf_counter()
            await send(link, megabytes, payload)
            seconds = time.perf_counter() - start
            cpu = cpu_seconds() + await call(pipe, "cpu") - cpu
            if run:
                found[name].append((seconds, cpu))
    for hub in hubs.values():
        await hub.close()
    pipe.send(())
    gigabytes = megabytes * MAX_PAYLOAD / 1e9
    report: dict[str, Any] = {
        name: {
            "GB/s": gigabytes / statistics.median(seconds for seconds, _ in runs),
            "CPU-s per GB": statistics.median(cpu for _, cpu in runs) / gigabytes,
        }
        for name, runs in found.items()
    }
    pairs = list(zip(found["open"], found["sealed"], strict=True))
    report["sealed to open"] = {
        "speed": statistics.median(plain[0] / sealed[0] for plain, sealed in pairs),
        "CPU": statistics.median(sealed[1] / plain[1] for plain, sealed in pairs),
    }
    return report


def child(pipe: Connection) -> None:
    import uvloop

    uvloop.run(receive(pipe))


def main() -> None:
    import uvloop

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=15, help="measured runs of each kind")
    parser.add_argument("--megabytes", type=int, default=1024, help="MiB for each run")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    options = parser.parse_args()
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=child, args=(there,))
    process.start()
    try:
        report = uvloop.run(measure(here, options.repeat, options.megabytes))
    finally:
        process.join(timeout=10)
        process.kill()
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        for name, figures in report.items():
            print(f"{name:15}", ", ".join(f"{what} {value:.2f}" for what, value in figures.items()))


if __name__ == "__main__":
    main()
