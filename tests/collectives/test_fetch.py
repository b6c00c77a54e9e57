"""Ranges of bytes over fetch links: the right bytes, or an error with a name."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest
import uvloop
from attempts import DEADLINE, peer, until

from lepton_p2p.collectives.fetch import Fetcher, FetchServer, NoSuchResource, OutOfRange, RemoteGone
from lepton_p2p.errors import IntegrityError
from lepton_p2p.transport.links import Link, LinkHub, Purpose
from lepton_p2p.transport.links.frames import Header, Kind, decode, encode
from lepton_p2p.transport.links.protocol import Verdict

MIB = 1 << 20


class Pair:
    """A server with a hub, and a hub to ask from."""

    def __init__(self, *, sealed: bool) -> None:
        self.server = FetchServer()
        self.donor = LinkHub(peer(0), host="127.0.0.1", sealed=sealed)
        self.asker = LinkHub(peer(1), host="127.0.0.1", sealed=sealed)
        self.accepted: list[Link] = []

    async def start(self) -> Pair:
        def accept(link: Link) -> None:
            self.accepted.append(link)
            self.server.accept(link)

        self.donor.serve(Purpose.FETCH, accept)
        await self.donor.start()
        await self.asker.start()
        return self

    async def link(self) -> Link:
        share = self.asker.propose()
        ticket = self.donor.issue_ticket(peer(1), Purpose.FETCH, b"" if share is None else share.public)
        return await self.asker.open(peer(0), "127.0.0.1", ticket, Purpose.FETCH, share)

    def provide(self, kind: str, key: int, data: bytes) -> None:
        view = memoryview(data)
        self.server.provide(kind, key, lambda offset, length: view[offset : offset + length])

    async def close(self) -> None:
        await self.asker.close()
        await self.donor.close()


@pytest.fixture(params=["open", "sealed"])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    """Over both kinds of links."""
    made = await Pair(sealed=request.param == "sealed").start()
    yield made
    await made.close()


@pytest.mark.parametrize(("offset", "length"), [(0, 0), (0, 1), (5, 100), (0, 5 * MIB + 17), (MIB - 3, 3 * MIB)])
async def test_the_range_asked_for_arrives(pair: Pair, offset: int, length: int) -> None:
    data = random.Random(1).randbytes(5 * MIB + 17)
    pair.provide("result", 7, data)
    into = bytearray(length)
    await asyncio.wait_for(Fetcher(await pair.link()).fetch_range("result", 7, offset, memoryview(into)), DEADLINE)
    assert into == data[offset : offset + length]
    assert pair.server.bytes_served == length


async def test_several_ranges_at_once_over_one_link(pair: Pair) -> None:
    data = random.Random(2).randbytes(4 * MIB)
    pair.provide("snapshot", 1, data)
    fetcher = Fetcher(await pair.link())
    parts = [bytearray(MIB // 2) for _ in range(8)]
    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        for number, part in enumerate(parts):
            group.create_task(fetcher.fetch_range("snapshot", 1, number * MIB // 2, memoryview(part)))
    assert b"".join(parts) == data


async def test_what_is_not_there_is_said_and_the_link_stays(pair: Pair) -> None:
    pair.provide("result", 1, b"x" * 100)
    link = await pair.link()
    fetcher = Fetcher(link)
    into = memoryview(bytearray(10))
    with pytest.raises(NoSuchResource, match="00000000 cannot send it: it does not have result 2"):
        await fetcher.fetch_range("result", 2, 0, into)
    with pytest.raises(NoSuchResource, match="does not have snapshot 1"):
        await fetcher.fetch_range("snapshot", 1, 0, into)
    with pytest.raises(OutOfRange, match="has no 10 bytes at 95"):
        await fetcher.fetch_range("result", 1, 95, into)
    with pytest.raises(OutOfRange, match="has no 10 bytes at"):
        await fetcher.fetch_range("result", 1, 2**63, into)
    await fetcher.fetch_range("result", 1, 90, into)
    assert into == b"x" * 10
    pair.server.withdraw("result", 1)
    pair.server.withdraw("result", 1)
    with pytest.raises(NoSuchResource):
        await fetcher.fetch_range("result", 1, 0, into)
    assert link.closed is None


async def test_an_error_in_the_middle_of_a_long_range_is_raised_once_and_the_link_stays(pair: Pair) -> None:
    pair.provide("result", 1, bytes(3 * MIB))
    fetcher = Fetcher(await pair.link())
    with pytest.raises(OutOfRange):
        await fetcher.fetch_range("result", 1, 0, memoryview(bytearray(20 * MIB)))
    into = bytearray(b"\xff" * 100)
    await fetcher.fetch_range("result", 1, 0, memoryview(into))
    assert into == bytes(100)


async def test_a_reader_that_refuses_is_out_of_range(pair: Pair) -> None:
    def reader(offset: int, length: int) -> memoryview:
        raise ValueError("only whole chunks")

    pair.server.provide("snapshot", 1, reader)
    with pytest.raises(OutOfRange, match="only whole chunks"):
        await Fetcher(await pair.link()).fetch_range("snapshot", 1, 0, memoryview(bytearray(10)))


async def test_the_death_of_the_remote_is_said(pair: Pair) -> None:
    release = asyncio.Event()
    pair.provide("result", 1, bytes(10))
    link = await pair.link()
    fetcher = Fetcher(link)
    pair.accepted[0].handler = Mute(release)
    task = asyncio.ensure_future(fetcher.fetch_range("result", 1, 0, memoryview(bytearray(10))))
    await asyncio.wait_for(release.wait(), DEADLINE)
    pair.accepted[0].abort("killed")
    with pytest.raises(RemoteGone, match="the link to 00000000 is gone"):
        await asyncio.wait_for(task, DEADLINE)
    with pytest.raises(RemoteGone):
        await fetcher.fetch_range("result", 1, 0, memoryview(bytearray(10)))


class Mute:
    """A donor that reads requests and does not answer."""

    def __init__(self, asked: asyncio.Event) -> None:
        self._asked = asked

    def admit(self, header: Header, extra: bytes) -> Verdict:
        self._asked.set()
        return Verdict.DRAIN

    def received(self, header: Header) -> None:
        raise AssertionError("unreachable")

    corrupt = received


async def test_one_who_does_not_answer_is_given_up(pair: Pair) -> None:
    fetcher = Fetcher(await pair.link(), silence=0.05)
    pair.accepted[0].handler = Mute(asyncio.Event())
    with pytest.raises(RemoteGone, match=r"sent nothing for 0\.05 s"):
        await fetcher.fetch_range("result", 1, 0, memoryview(bytearray(10)))


async def test_bytes_that_change_while_they_are_sent_are_refused(pair: Pair) -> None:
    link = await pair.link()
    fetcher = Fetcher(link)
    pair.accepted[0].handler = Mute(asked := asyncio.Event())
    task = asyncio.ensure_future(fetcher.fetch_range("result", 1, 0, memoryview(bytearray(4))))
    await asyncio.wait_for(asked.wait(), DEADLINE)
    pair.accepted[0].send(encode(Kind.FETCHED, round=1, payload=4, payload_checksum=123), memoryview(b"data"))
    with pytest.raises(IntegrityError, match="wrong checksum"):
        await asyncio.wait_for(task, DEADLINE)


@pytest.mark.parametrize("answer", [{"round": 2}, {"round": 1, "kind": Kind.CHUNK}])
async def test_an_answer_that_nobody_asked_for_closes_the_link(pair: Pair, answer: dict[str, int]) -> None:
    link = await pair.link()
    fetcher = Fetcher(link)
    pair.accepted[0].handler = Mute(asked := asyncio.Event())
    task = asyncio.ensure_future(fetcher.fetch_range("result", 1, 0, memoryview(bytearray(4))))
    await asyncio.wait_for(asked.wait(), DEADLINE)
    pair.accepted[0].send(encode(**{"kind": Kind.FETCHED, **answer}))  # type: ignore[arg-type]
    with pytest.raises(RemoteGone, match="nobody asked for"):
        await asyncio.wait_for(task, DEADLINE)


async def test_an_answer_of_another_size_is_refused_before_it_is_received(pair: Pair) -> None:
    fetcher = Fetcher(await pair.link())
    pair.accepted[0].handler = Mute(asked := asyncio.Event())
    into = bytearray(4)
    task = asyncio.ensure_future(fetcher.fetch_range("result", 1, 0, memoryview(into)))
    await asyncio.wait_for(asked.wait(), DEADLINE)
    pair.accepted[0].send(encode(Kind.FETCHED, round=1, payload=5), memoryview(b"12345"))
    with pytest.raises(OutOfRange, match="sent 5 bytes, not 4"):
        await asyncio.wait_for(task, DEADLINE)
    assert into == bytes(4)


async def test_after_a_cancelled_fetch_nothing_is_written_and_the_link_is_usable(pair: Pair) -> None:
    data = random.Random(3).randbytes(64 * MIB)
    pair.provide("snapshot", 1, data)
    fetcher = Fetcher(await pair.link())
    into = bytearray(64 * MIB)
    task = asyncio.ensure_future(fetcher.fetch_range("snapshot", 1, 0, memoryview(into)))
    await until(lambda: any(into[: 16 * MIB : 4096]))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    into[:] = bytes(64 * MIB)
    again = bytearray(MIB)
    await asyncio.wait_for(fetcher.fetch_range("snapshot", 1, MIB, memoryview(again)), DEADLINE)
    assert again == data[MIB : 2 * MIB]
    assert not any(into)


@pytest.mark.parametrize(
    "request_frame",
    [
        encode(Kind.FETCH, round=1),
        encode(Kind.FETCH, round=1, extra=bytes(19)),
        encode(Kind.FETCH, round=1, extra=bytes(20)),
        encode(Kind.FETCH, round=1, extra=bytes(16) + b"\xff\xff\xff\xffresult"),
        encode(Kind.FETCH, round=1, extra=bytes(19) + b"\x01" + b"r" * 65),
        encode(Kind.CHUNK, round=1, extra=bytes(19) + b"\x01result"),
        encode(Kind.FETCH, round=1, extra=bytes(19) + b"\x01result", payload=1),
    ],
)
async def test_a_malformed_request_closes_the_link(pair: Pair, request_frame: bytes) -> None:
    link = await pair.link()
    gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    link.watch(gone.set_result)
    link.send(request_frame, memoryview(b"x") if decode(memoryview(request_frame)).payload else None)
    await asyncio.wait_for(gone, DEADLINE)
    assert pair.accepted[0].closed is not None
    assert "on a fetch link" in pair.accepted[0].closed


async def test_one_who_asks_and_does_not_read_is_not_answered_without_bound(pair: Pair) -> None:
    pair.provide("snapshot", 1, bytes(MIB))
    link = await pair.link()
    transport = link.protocol._transport
    assert transport is not None
    transport.pause_reading()
    request = encode(Kind.FETCH, round=1, extra=(0).to_bytes(7) + b"\x01" + bytes(8) + MIB.to_bytes(4) + b"snapshot")
    for _ in range(500):
        link.send(request)
    await until(lambda: pair.accepted[0].protocol.held)
    assert pair.accepted[0].buffered <= MIB + 64
    assert pair.server.bytes_served < 200 * MIB


def test_kinds_are_short_ascii() -> None:
    for kind in ("", "ä", "x" * 65):
        with pytest.raises(ValueError, match="a kind of resource"):
            FetchServer().provide(kind, 1, lambda offset, length: memoryview(b""))


@pytest.mark.parametrize("sealed", [False, True])
def test_the_same_on_uvloop(sealed: bool) -> None:
    async def main() -> None:
        pair = await Pair(sealed=sealed).start()
        data = random.Random(4).randbytes(20 * MIB)
        pair.provide("snapshot", 1, data)
        into = bytearray(20 * MIB)
        fetchers = [Fetcher(await pair.link()) for _ in range(2)]
        half = 10 * MIB
        async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
            for number, fetcher in enumerate(fetchers):
                view = memoryview(into)[number * half : (number + 1) * half]
                group.create_task(fetcher.fetch_range("snapshot", 1, number * half, view))
        assert into == data
        await pair.close()

    uvloop.run(main())
