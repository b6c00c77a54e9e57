"""Pushes between peers with real links: whole or not at all, bounded, and their fate is told as far as it is known."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import AsyncExitStack

import pytest

from lepton_p2p.collectives.push import MAX_PUSH_HEADER, NotSent, Pusher
from lepton_p2p.collectives.push_inbox import PushInbox
from lepton_p2p.errors import Closed, SwarmUnreachable
from lepton_p2p.identity import PeerId
from lepton_p2p.tasks import OwnedTasks
from lepton_p2p.transport.links.frames import Header, Kind, checksum, encode
from lepton_p2p.transport.links.hub import LinkHub
from lepton_p2p.transport.links.link import Link, Purpose
from lepton_p2p.transport.links.protocol import Verdict

DEADLINE = 20.0
CHUNK = 1000
SIZE = 100 * CHUNK + 1


class Peer:
    """A hub with both halves; its handler keeps what comes in, and answers ``answer``."""

    def __init__(
        self,
        number: int,
        world: dict[PeerId, Peer],
        *,
        sealed: bool = False,
        patience: float = 60.0,
        buffers: int = 4,
    ) -> None:
        self.id = PeerId(f"{number:032x}")
        self.world = world
        self.tasks = OwnedTasks()
        self.hub = LinkHub(self.id, host="127.0.0.1", sealed=sealed)
        self.pusher = Pusher(self.connect, self.tasks, patience=patience, chunk=CHUNK)
        self.inbox = PushInbox(self.tasks, patience=patience, buffers=buffers)
        self.hub.serve(Purpose.PUSH, self.inbox.accept)
        self.got: list[tuple[PeerId, bytes, bytes]] = []
        self.answer: Callable[[], bool] = lambda: True
        world[self.id] = self

    async def connect(self, partner: PeerId) -> Link:
        other = self.world.get(partner)
        if other is None:
            raise SwarmUnreachable("nobody answers there")
        share = self.hub.propose()
        ticket = other.hub.issue_ticket(self.id, Purpose.PUSH, b"" if share is None else share.public)
        return await self.hub.open(partner, "127.0.0.1", ticket, Purpose.PUSH, share)

    def listen(self, size: int = SIZE) -> None:
        self.inbox.expect(size)
        self.inbox.serve(self.handle)

    def handle(self, sender: PeerId, header: bytes, payload: memoryview) -> bool:
        self.got.append((sender, header, bytes(payload)))
        return self.answer()

    def push(self, to: Peer, payload: bytes = b"", header: bytes = b"h") -> asyncio.Future[bool]:
        return within(self.pusher.push(to.id, header, memoryview(payload)))

    async def aclose(self) -> None:
        self.pusher.close()
        self.inbox.close()
        await self.tasks.aclose()
        await self.hub.close()


def within(future: Future[bool]) -> asyncio.Future[bool]:
    return asyncio.ensure_future(asyncio.wait_for(asyncio.wrap_future(future), DEADLINE))


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


class Spy:
    """Sits in front of an inbox and lets ``look`` see every frame with the verdict about it."""

    def __init__(
        self, link: Link, inbox: PushInbox, look: Callable[[Link, Header, memoryview | Verdict], None]
    ) -> None:
        inbox.accept(link)
        self._link, self._inner, self._look = link, link.handler, look
        link.handler = self

    def admit(self, header: Header, extra: bytes) -> memoryview | Verdict:
        verdict = self._inner.admit(header, extra)
        self._look(self._link, header, verdict)
        return verdict

    def received(self, header: Header) -> None:
        self._inner.received(header)

    def corrupt(self, header: Header) -> None:
        self._inner.corrupt(header)


class Gate:
    """An answer that is given when the test says so."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.reached = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def __call__(self) -> bool:
        self._loop.call_soon_threadsafe(self.reached.set)
        return self.open.wait(DEADLINE)

    async def wait(self) -> None:
        await asyncio.wait_for(self.reached.wait(), DEADLINE)


Make = Callable[..., Peer]
by_hand = pytest.mark.parametrize("make", ["open"], indirect=True)
"""For frames that a test writes to the wire itself."""


@pytest.fixture(params=["open", "sealed"])
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., object]]:
    """Over both kinds of links."""
    world: dict[PeerId, Peer] = {}
    async with AsyncExitStack() as stack:

        async def start(**options: float) -> Peer:
            sealed = request.param == "sealed"
            peer = Peer(len(world) + 1, world, sealed=sealed, **options)  # type: ignore[arg-type]
            stack.push_async_callback(peer.aclose)
            await peer.hub.start()
            return peer

        yield start


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 17 * CHUNK, SIZE, 5_000_011])
async def test_a_push_arrives_bit_by_bit_with_its_header_and_sender(make: Make, size: int) -> None:
    one, other = await make(), await make()
    other.listen(size)
    payload, header = noise(size), noise(300, 1)
    assert await one.push(other, payload, header) is True
    assert other.got == [(one.id, header, payload)]


async def test_the_longest_header_fits_and_a_longer_one_is_an_error_of_the_caller(make: Make) -> None:
    one, other = await make(), await make()
    other.listen()
    assert await one.push(other, header=noise(MAX_PUSH_HEADER))
    with pytest.raises(ValueError, match="at most"):
        one.pusher.push(other.id, noise(MAX_PUSH_HEADER + 1), memoryview(b""))


async def test_the_sender_learns_that_the_handler_refused(make: Make) -> None:
    one, other = await make(), await make()
    other.listen()
    other.answer = lambda: False
    assert await one.push(other, noise(SIZE)) is False
    other.answer = lambda: True
    assert await one.push(other) is True


async def test_three_peers_push_to_each_other_at_once_over_one_link_per_direction(make: Make) -> None:
    peers = [await make() for _ in range(3)]
    for peer in peers:
        peer.listen()
    pairs = [(a, b) for a in peers for b in peers if a is not b]
    for turn in range(4):
        payloads = [noise(SIZE, hash((turn, a.id, b.id))) for a, b in pairs]
        assert all(await asyncio.gather(*(a.push(b, p) for (a, b), p in zip(pairs, payloads, strict=True))))
        for (a, b), payload in zip(pairs, payloads, strict=True):
            assert (a.id, b"h", payload) in b.got
    assert [len(peer.hub.links) for peer in peers] == [4, 4, 4]


async def test_a_push_from_another_thread_does_not_block_it(make: Make) -> None:
    one, other = await make(), await make()
    other.listen()
    gate = other.answer = Gate()
    future = await asyncio.to_thread(one.pusher.push, other.id, b"", memoryview(noise(SIZE)))
    await gate.wait()
    assert not future.done()
    assert not future.cancel(), "its memory is in use"
    gate.open.set()
    assert await within(future)


async def test_pushes_to_one_partner_keep_their_order_and_are_bounded(make: Make) -> None:
    one, other = await make(), await make()
    other.listen()
    gate = other.answer = Gate()
    first = one.push(other, noise(SIZE), b"0")
    await gate.wait()
    waiting = [one.push(other, header=str(n).encode()) for n in range(1, 5)]
    with pytest.raises(NotSent, match="wait already"):
        await one.push(other, header=b"5")
    gate.open.set()
    assert all(await asyncio.gather(first, *waiting))
    assert [header for _, header, _ in other.got] == [b"0", b"1", b"2", b"3", b"4"]
    assert await one.push(other)


class TestWhatCertainlyDidNotArrive:
    async def test_there_is_no_link_to_be_had(self, make: Make) -> None:
        one = await make()
        with pytest.raises(NotSent, match="nobody answers there"):
            await within(one.pusher.push(PeerId("f" * 32), b"", memoryview(b"x")))

    async def test_nobody_takes_pushes_there_yet(self, make: Make) -> None:
        one, other = await make(), await make()
        with pytest.raises(NotSent, match="takes no pushes"):
            await one.push(other, noise(SIZE))
        (link,) = one.hub.links
        other.listen()
        assert await one.push(other, noise(SIZE, 2))
        assert other.got == [(one.id, b"h", noise(SIZE, 2))]
        assert one.hub.links == (link,), "the rest of the refused push was thrown away, the link kept"

    async def test_the_partner_is_gone_before_its_turn_came(self, make: Make) -> None:
        one, other = await make(), await make()
        other.listen()
        gate = other.answer = Gate()
        current = one.push(other, noise(SIZE))
        waiting = one.push(other)
        await gate.wait()
        one.pusher.drop(other.id, "the partner is gone")
        gate.open.set()
        with pytest.raises(NotSent, match="gone"):
            await waiting
        with pytest.raises(SwarmUnreachable, match="gone") as unknown:
            await current
        assert not isinstance(unknown.value, NotSent)
        assert await one.push(other), "a peer that was wrongly believed dead is reached again"


class TestWhatNobodyKnows:
    async def test_the_partner_dies_in_the_middle(self, make: Make) -> None:
        one, other = await make(), await make()
        other.listen()

        def die_half_way(link: Link, header: Header, verdict: memoryview | Verdict) -> None:
            if header.tag > SIZE // 2:
                link.abort("killed")

        other.hub.serve(Purpose.PUSH, lambda link: Spy(link, other.inbox, die_half_way))
        with pytest.raises(SwarmUnreachable, match="lost during a push") as unknown:
            await one.push(other, noise(SIZE))
        assert not isinstance(unknown.value, NotSent)
        assert other.got == []
        other.hub.serve(Purpose.PUSH, other.inbox.accept)
        assert await one.push(other, noise(SIZE)), "over a new link"
        assert len(other.got) == 1

    async def test_the_handler_fails(self, make: Make) -> None:
        one, other = await make(), await make()
        other.listen()

        def fail() -> bool:
            raise RuntimeError("a bug")

        other.answer = fail
        with pytest.raises(SwarmUnreachable, match="failed to handle") as unknown:
            await one.push(other, noise(SIZE))
        assert not isinstance(unknown.value, NotSent)
        other.answer = lambda: True
        assert await one.push(other, noise(SIZE))

    async def test_the_partner_takes_it_and_never_answers(self, make: Make) -> None:
        one, other = await make(patience=0.05), await make()
        other.hub.serve(Purpose.PUSH, lambda link: setattr(link, "handler", Deaf()))
        with pytest.raises(SwarmUnreachable, match="neither took nor answered"):
            await one.push(other, noise(SIZE))
        other.hub.serve(Purpose.PUSH, other.inbox.accept)
        other.listen()
        assert await one.push(other, noise(SIZE)), "over a new link"

    async def test_the_partner_answers_something_else(self, make: Make) -> None:
        one, other = await make(), await make()

        def accept(link: Link) -> None:
            link.handler = Deaf()
            link.send(encode(Kind.PUSHED, round=2, phase=1))

        other.hub.serve(Purpose.PUSH, accept)
        with pytest.raises(SwarmUnreachable):
            await one.push(other, noise(SIZE))

    async def test_this_peer_is_closed(self, make: Make) -> None:
        one, other = await make(), await make()
        other.listen()
        gate = other.answer = Gate()
        pushes = [one.push(other, noise(SIZE)), one.push(other)]
        await gate.wait()
        one.pusher.close()
        gate.open.set()
        for push in [*pushes, one.push(other)]:
            with pytest.raises(Closed):
                await push

    async def test_the_owner_of_the_tasks_ends_them(self, make: Make) -> None:
        one, other = await make(), await make()
        other.listen()
        gate = other.answer = Gate()
        begun = one.push(other, noise(SIZE))
        await gate.wait()
        waiting = one.push(other)
        await asyncio.sleep(0)
        await one.tasks.aclose()
        late = one.push(other)
        for push in (begun, waiting, late):
            with pytest.raises(SwarmUnreachable):
                await push
        gate.open.set()


class Stuck:
    """Reads nothing any more."""

    def admit(self, header: Header, extra: bytes) -> Verdict:
        return Verdict.HOLD

    def received(self, header: Header) -> None:
        raise AssertionError("nothing was admitted")

    corrupt = received


class Deaf:
    """Reads everything, says nothing."""

    def admit(self, header: Header, extra: bytes) -> Verdict:
        return Verdict.DRAIN

    def received(self, header: Header) -> None:
        raise AssertionError("nothing was admitted")

    corrupt = received


class Counting(Deaf):
    """Waits for so many frames."""

    def __init__(self, expected: int) -> None:
        self._left = expected
        self.all_of_them = asyncio.Event()

    def admit(self, header: Header, extra: bytes) -> Verdict:
        self._left -= 1
        if not self._left:
            self.all_of_them.set()
        return Verdict.DRAIN


class TestNothingIsTakenOnTrust:
    @pytest.mark.parametrize("size", [1, SIZE - 1, SIZE + 1, 10 * SIZE])
    async def test_another_size_than_expected_closes_the_link(self, make: Make, size: int) -> None:
        one, other = await make(), await make()
        other.listen()
        with pytest.raises(SwarmUnreachable):
            await one.push(other, noise(size))
        assert other.got == []
        assert await one.push(other, noise(SIZE)), "over a new link"

    async def test_no_payload_is_taken_before_one_is_expected(self, make: Make) -> None:
        one, other = await make(), await make()
        other.inbox.serve(other.handle)
        with pytest.raises(SwarmUnreachable):
            await one.push(other, b"x")
        assert await one.push(other)
        assert [payload for _, _, payload in other.got] == [b""]

    @staticmethod
    def part(
        number: int, offset: int, data: bytes, *, total: int = SIZE, extra: bytes = b"", kind: Kind = Kind.PUSH
    ) -> bytes:
        head = encode(
            kind,
            epoch=total,
            tag=offset,
            round=number,
            extra=extra,
            payload=len(data),
            payload_checksum=checksum(data),
        )
        return head + data

    async def send(self, peer: Peer, to: Peer, data: bytes) -> str:
        """Why ``to`` closed the link on which ``data`` came."""
        reason: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def accept(link: Link) -> None:
            link.watch(reason.set_result)
            to.inbox.accept(link)

        to.hub.serve(Purpose.PUSH, accept)
        link = await peer.connect(to.id)
        link.send(data)
        return await asyncio.wait_for(reason, DEADLINE)

    @by_hand
    async def test_frames_that_break_the_rules_close_the_link(self, make: Make) -> None:
        one, other = await make(), await make(buffers=1)
        other.listen()
        part, first = self.part, self.part(1, 0, b"abc")
        impossible = "lengths are not possible"
        next_one = "not the next one"
        cases = {
            part(1, 0, b"a", kind=Kind.CHUNK): "CHUNK",
            part(1, 0, b"", extra=bytes(MAX_PUSH_HEADER + 1), total=0): "records announced, 65536 at most",
            part(1, 0, b"a", total=0): impossible,
            part(1, 0, b""): impossible,
            part(1, 0, b"abc", total=2**63): "expected",
            part(1, 5, b"abc"): next_one,
            first + part(1, 0, b"abc"): next_one,
            first + part(1, 4, b"abc"): next_one,
            first + part(2, 3, b"abc"): next_one,
            first + part(1, 3, b"abc", extra=b"again"): next_one,
            first + part(1, 3, b""): "empty or reaches past",
            first + part(1, 3, bytes(SIZE - 2)): "empty or reaches past",
            first + part(2, 0, b"abc"): "before the last one was answered",
            first + self.part(1, 3, b"abc")[:-1] + b"x": "wrong checksum",
        }
        for data, expected in cases.items():
            assert expected in await self.send(one, other, data)
        assert other.got == []
        assert await one.push(other, noise(SIZE)), "the one buffer is free again"

    @by_hand
    async def test_one_who_goes_on_with_a_refused_push_loses_its_link(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("lepton_p2p.collectives.push_inbox._USELESS", (10, 0.0))
        one, other = await make(), await make()
        parts = b"".join(self.part(1, 3 * index, b"abc") for index in range(12))
        assert "goes on with a push that was refused" in await self.send(one, other, parts)

    @by_hand
    async def test_one_who_does_not_read_the_answers_is_not_listened_to(self, make: Make) -> None:
        """Nobody takes its pushes, so that each would be answered at once; the answers must not pile up."""
        one, other = await make(), await make()
        accepted: asyncio.Future[Link] = asyncio.get_running_loop().create_future()

        def accept(link: Link) -> None:
            accepted.set_result(link)
            other.inbox.accept(link)

        other.hub.serve(Purpose.PUSH, accept)
        link = await one.connect(other.id)
        answering = await accepted
        for end, option in ((link, socket.SO_RCVBUF), (answering, socket.SO_SNDBUF)):
            assert end._transport is not None
            end._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, option, 4096)
        assert link._transport is not None
        link._transport.pause_reading()
        number = 0
        async with asyncio.timeout(DEADLINE):
            while not answering.protocol.held:
                # Many in one write: all the buffers of the kernel must be full before anything happens.
                pushes = range(number + 1, number + 501)
                link.send(b"".join(self.part(push, 0, b"", total=0) for push in pushes))
                number = pushes[-1]
                await asyncio.sleep(0)
        assert answering.buffered <= 1000
        heard = link.handler = Counting(number)
        link._transport.resume_reading()
        await asyncio.wait_for(heard.all_of_them.wait(), DEADLINE)

    @by_hand
    async def test_a_sender_that_falls_silent_does_not_keep_the_memory(self, make: Make) -> None:
        one, other = await make(), await make(patience=0.05, buffers=1)
        other.listen()
        assert "silent" in await self.send(one, other, self.part(1, 0, b"abc"))
        assert await one.push(other, noise(SIZE))

    @by_hand
    async def test_a_client_that_is_no_peer_cannot_push(self, make: Make) -> None:
        one, other = await make(), await make()
        other.listen()
        ticket = other.hub.issue_ticket(None, Purpose.PUSH)
        link = await one.hub.open(other.id, "127.0.0.1", ticket, Purpose.PUSH)
        lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        link.watch(lost.set_result)
        await asyncio.wait_for(lost, DEADLINE)

    async def test_a_newer_link_replaces_the_older_one(self, make: Make) -> None:
        one, other = await make(), await make()
        other.listen()
        lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        (await one.connect(other.id)).watch(lost.set_result)
        await one.connect(other.id)
        await asyncio.wait_for(lost, DEADLINE)
        assert len(other.hub.links) == 1


class TestMemory:
    async def test_more_senders_than_buffers_are_held_back_and_served_later(self, make: Make) -> None:
        to = await make(buffers=1)
        to.listen()
        gate = to.answer = Gate()
        held: set[Link] = set()
        all_held = asyncio.Event()

        def look(link: Link, header: Header, verdict: memoryview | Verdict) -> None:
            if verdict is Verdict.HOLD:
                held.add(link)
                if len(held) == 3:
                    all_held.set()

        to.hub.serve(Purpose.PUSH, lambda link: Spy(link, to.inbox, look))
        senders = [await make() for _ in range(4)]
        first = senders[0].push(to, noise(SIZE, 0))
        await gate.wait()
        rest = [sender.push(to, noise(SIZE, n)) for n, sender in enumerate(senders[1:], start=1)]
        await asyncio.wait_for(all_held.wait(), DEADLINE)
        assert len(to.got) == 1
        gate.open.set()
        assert all(await asyncio.gather(first, *rest))
        assert sorted(payload for _, _, payload in to.got) == sorted(noise(SIZE, n) for n in range(4))

    @by_hand
    async def test_a_sender_that_dies_frees_its_buffer_for_one_that_is_held_back(self, make: Make) -> None:
        one, dying, to = await make(), await make(), await make(buffers=1)
        to.listen()
        begun, held_back = asyncio.Event(), asyncio.Event()

        def look(link: Link, header: Header, verdict: memoryview | Verdict) -> None:
            (held_back if verdict is Verdict.HOLD else begun).set()

        to.hub.serve(Purpose.PUSH, lambda link: Spy(link, to.inbox, look))
        link = await dying.connect(to.id)
        link.send(TestNothingIsTakenOnTrust.part(1, 0, bytes(CHUNK)))
        await asyncio.wait_for(begun.wait(), DEADLINE)
        held = one.push(to, noise(SIZE))
        await asyncio.wait_for(held_back.wait(), DEADLINE)
        await dying.aclose()
        assert await held
        assert [sender for sender, _, _ in to.got] == [one.id]

    async def test_many_pushes_leave_nothing_behind(self, make: Make) -> None:
        one, other, refusing = await make(), await make(), await make()
        other.listen()
        memory = bytearray(noise(SIZE))
        for turn in range(100):
            payload = memoryview(memory)
            assert await within(one.pusher.push(other.id, b"h", payload))
            with pytest.raises(NotSent):
                await within(one.pusher.push(refusing.id, b"h", payload))
            payload.release()
            memory.clear()  # BufferError if anybody still had a view of it
            memory += noise(SIZE, turn)
            other.got.clear()
        assert not one.pusher._load
        assert not other.inbox._buffers._used
        assert len(other.inbox._buffers._idle) == 1
        assert len(other.hub.links) == 1
        one.pusher.drop(other.id, "test")
        one.pusher.drop(refusing.id, "test")
        assert not one.pusher._lanes

    async def test_a_push_that_was_given_up_half_way_lets_go_of_its_payload(self, make: Make) -> None:
        one, other = await make(patience=0.05), await make()
        one.pusher._chunk = 1 << 20
        other.hub.serve(Purpose.PUSH, lambda link: setattr(link, "handler", Stuck()))
        memory = bytearray(32 << 20)  # more than the sockets' buffers hold
        payload = memoryview(memory)
        future = one.pusher.push(other.id, b"h", payload)
        with pytest.raises(SwarmUnreachable, match="neither took nor answered"):
            await within(future)
        payload.release()
        memory.clear()  # BufferError if the outcome, which is kept here, still had a view of it
        assert future.done()

    async def test_nothing_is_kept_about_partners_whose_links_are_gone(self, make: Make) -> None:
        one, other = await make(), await make()
        other.listen()
        assert await one.push(other)
        (link,) = one.hub.links
        lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        link.watch(lost.set_result)
        await other.aclose()
        await asyncio.wait_for(lost, DEADLINE)
        assert not one.pusher._lanes
        assert not other.inbox._inbound
