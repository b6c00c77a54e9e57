"""Strangers on both ports of a peer while rounds go on: they get nowhere, and leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import grpc
import pytest
from process_swarm import DEADLINE, ProcessSwarm, Worker

from lepton_p2p.identity import split_address
from lepton_p2p.transport.channels import Channels
from lepton_p2p.transport.links.frames import Kind, checksum, encode
from lepton_p2p.transport.links.handshake import PREAMBLE
from lepton_p2p.transport.links.link import Purpose
from lepton_p2p.transport.metadata import Hello
from lepton_p2p.transport.options import MAX_MESSAGE_BYTES

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@contextlib.asynccontextmanager
async def dialled(port: int) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def ports(worker: Worker) -> tuple[int, int]:
    """Control plane, data plane."""
    return split_address(worker.address)[1], worker.link_port


async def hung_up(reader: asyncio.StreamReader) -> None:
    """Wait until the peer closes the connection."""
    async with asyncio.timeout(DEADLINE):
        with contextlib.suppress(ConnectionError):
            while await reader.read(1 << 16):
                pass


async def random_bytes(worker: Worker, swarm: ProcessSwarm) -> None:
    noise = random.Random(7)
    for port in ports(worker):
        for _ in range(8):
            async with dialled(port) as (reader, writer):
                writer.write(noise.randbytes(1 << 14))
                with contextlib.suppress(ConnectionError):
                    await writer.drain()
                await hung_up(reader)


async def cut_off_greetings(worker: Worker, swarm: ProcessSwarm) -> None:
    control, data = ports(worker)
    for port, greeting in ((control, HTTP2_PREFACE), (data, PREAMBLE + bytes(32))):
        for length in range(0, len(greeting), 3):
            async with dialled(port) as (_, writer):
                writer.write(greeting[:length])
                await writer.drain()
                writer.transport.abort()


async def made_up_tickets(worker: Worker, swarm: ProcessSwarm) -> None:
    noise = random.Random(8)
    for _ in range(8):
        async with dialled(worker.link_port) as (reader, writer):
            writer.write(PREAMBLE + noise.randbytes(64))
            await hung_up(reader)


async def silence(worker: Worker, swarm: ProcessSwarm) -> None:
    """Connections that say nothing: the data port closes them, on the control port they do no harm."""
    async with contextlib.AsyncExitStack() as stack:
        on_data = [await stack.enter_async_context(dialled(worker.link_port)) for _ in range(8)]
        for _ in range(8):
            await stack.enter_async_context(dialled(ports(worker)[0]))
        await swarm.round()
        await asyncio.gather(*(hung_up(reader) for reader, _ in on_data))


async def a_thousand_connections(worker: Worker, swarm: ProcessSwarm) -> None:
    """All at once, half of them with half a greeting, and held until the peer closes them."""
    async with contextlib.AsyncExitStack() as stack:
        streams = []
        for number in range(1000):
            reader, writer = await stack.enter_async_context(dialled(worker.link_port))
            writer.write(PREAMBLE[: number % 2 * len(PREAMBLE)])
            streams.append(reader)
            if number % 100 == 99:
                await swarm.round()
        assert (await swarm.call(worker, "usage"))["waiting"] <= 256
        await swarm.round()
        await asyncio.gather(*(hung_up(reader) for reader in streams))


async def slow_loris(worker: Worker, swarm: ProcessSwarm) -> None:
    """A byte now, a byte after the next round: a greeting that never ends is cut off."""
    control, data = ports(worker)
    async with dialled(data) as (reader, writer), dialled(control) as (_, other):
        watching = asyncio.create_task(hung_up(reader))
        sent = 0
        while not watching.done():
            with contextlib.suppress(ConnectionError):
                # The preamble is right, the rest a token that is never finished.
                writer.write((PREAMBLE + bytes(32))[sent : sent + 1] if sent < len(PREAMBLE) + 31 else b"")
                other.write(HTTP2_PREFACE[sent : sent + 1])
                await swarm.round()
            sent += 1
        await watching


async def sizes_far_above_the_limit(worker: Worker, swarm: ProcessSwarm) -> None:
    async with Channels(swarm="lepton", me=None) as channels:
        for payload in ((1 << 32) - 1, (1 << 20) + 1):
            ticket = await channels.open_link(worker.address, Purpose.FETCH)
            async with dialled(ticket.port) as (reader, writer):
                head = encode(Kind.FETCH, payload=payload, payload_checksum=checksum(b"x"))
                writer.write(PREAMBLE + ticket.token + head)
                await hung_up(reader)
    code = await refused(worker, "/lepton.v1.Rounds/Deliver", bytes(MAX_MESSAGE_BYTES + 1))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def calls_that_mean_nothing(worker: Worker, swarm: ProcessSwarm) -> None:
    noise = random.Random(9)
    deliver = "/lepton.v1.Rounds/Deliver"
    for method in (deliver, "/lepton.v1.Membership/Deliver", "/lepton.v1.Swarm/Events", "/lepton.v1.No/Such", "/"):
        await refused(worker, method, noise.randbytes(2000))
    # From somebody who knows the name of the swarm:
    code = await refused(worker, deliver, noise.randbytes(2000), metadata=Hello("lepton").to_metadata())
    assert code is grpc.StatusCode.INVALID_ARGUMENT


async def refused(
    worker: Worker, method: str, body: bytes, *, metadata: tuple[tuple[str, str], ...] = ()
) -> grpc.StatusCode:
    """Send ``body`` to ``method`` and return the status, which is not OK."""
    async with grpc.aio.insecure_channel(worker.address) as channel:
        call = channel.unary_unary(method)(body, timeout=DEADLINE, metadata=metadata)
        code = await call.code()
        assert code is not grpc.StatusCode.OK
        return code


@pytest.mark.parametrize(
    "annoy",
    [
        random_bytes,
        cut_off_greetings,
        made_up_tickets,
        silence,
        a_thousand_connections,
        slow_loris,
        sizes_far_above_the_limit,
        calls_that_mean_nothing,
    ],
)
async def test_the_swarm_goes_on_and_nothing_is_left_behind(
    refilled: ProcessSwarm, annoy: Callable[[Worker, ProcessSwarm], Coroutine[Any, Any, None]]
) -> None:
    swarm = refilled
    worker = swarm.workers[0]
    first = (await swarm.round())[0]
    before, descriptors = await swarm.call(worker, "usage"), swarm.descriptors(worker)
    await annoy(worker, swarm)
    last = (await swarm.round())[0]
    assert last["epoch"] == first["epoch"], "nobody was lost for a moment"
    await swarm.until(lambda: swarm.descriptors(worker) <= descriptors)
    after = await swarm.call(worker, "usage")
    assert after["links"] == before["links"]
    assert after["rss"] < before["rss"] + (16 << 20)
