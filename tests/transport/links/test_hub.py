"""Opening links: a ticket in time, or nothing.  Real sockets on the loopback interface."""

from __future__ import annotations

import asyncio
import mmap
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

import pytest
import structlog.testing
from descriptors import open_named
from link_sides import ALICE, BOB, DEADLINE, closed_by_remote, lost, ring_link, until

from lepton_p2p.errors import AddressError, Closed, PortInUse, SwarmUnreachable
from lepton_p2p.identity import PeerId
from lepton_p2p.transport.links import LinkHub, Purpose, Ticket, memory
from lepton_p2p.transport.links.arena import Borrower
from lepton_p2p.transport.links.frames import Header, Kind, checksum, encode
from lepton_p2p.transport.links.handshake import GREETING_BYTES, PREAMBLE
from lepton_p2p.transport.links.protocol import Verdict


async def test_a_ticket_opens_a_link_between_two_peers(sides: Callable[..., Any]) -> None:
    alice, bob = await sides(ALICE), await sides(BOB)
    link = await alice.hub.open(BOB, "127.0.0.1", bob.hub.issue_ticket(ALICE, Purpose.RING), Purpose.RING)
    other = await bob.accepted.next()
    assert (link.remote, other.remote) == (BOB, ALICE)
    assert link.closed is None
    # The WELCOME, and that memory was handed in.
    assert link.statistics().frames_sent == other.statistics().frames_sent == 1
    assert bob.hub.rejected == 0


async def test_a_ticket_is_good_once(sides: Callable[..., Any]) -> None:
    alice, bob = await sides(ALICE), await sides(BOB)
    ticket = bob.hub.issue_ticket(ALICE, Purpose.RING)
    await alice.hub.open(BOB, "127.0.0.1", ticket, Purpose.RING)
    with pytest.raises(SwarmUnreachable, match="refused"):
        await alice.hub.open(BOB, "127.0.0.1", ticket, Purpose.RING)
    assert bob.hub.rejected == 1


async def test_a_made_up_ticket_opens_nothing(sides: Callable[..., Any]) -> None:
    alice, bob = await sides(ALICE), await sides(BOB)
    with pytest.raises(SwarmUnreachable, match="refused"):
        await alice.hub.open(BOB, "127.0.0.1", Ticket(bob.hub.port, bytes(32)), Purpose.RING)


async def test_a_ticket_for_a_purpose_that_nobody_serves_opens_nothing(sides: Callable[..., Any]) -> None:
    alice, bob = await sides(ALICE), await sides(BOB)
    with pytest.raises(SwarmUnreachable, match="refused"):
        await alice.hub.open(BOB, "127.0.0.1", bob.hub.issue_ticket(ALICE, Purpose.FETCH), Purpose.FETCH)


@pytest.mark.parametrize(
    "greeting",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        PREAMBLE + bytes(32),
        b"\x00" * 4096,
    ],
)
async def test_strangers_are_closed_without_an_answer(sides: Callable[..., Any], greeting: bytes) -> None:
    bob = await sides(BOB)
    reader, writer = await asyncio.open_connection("127.0.0.1", bob.hub.port)
    writer.write(greeting)
    assert await closed_by_remote(reader) == b""
    assert bob.hub.rejected == 1
    assert not bob.hub.links
    writer.close()


@pytest.mark.parametrize("said", [b"", PREAMBLE, (PREAMBLE + bytes(32))[: GREETING_BYTES - 1]])
async def test_one_who_says_nothing_or_half_of_it_is_closed_in_time(sides: Callable[..., Any], said: bytes) -> None:
    bob = await sides(BOB, handshake_timeout=0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", bob.hub.port)
    writer.write(said)
    assert await closed_by_remote(reader) == b""
    assert bob.hub.rejected == 1
    writer.close()


async def test_the_number_of_strangers_is_bounded_and_peers_still_get_in(sides: Callable[..., Any]) -> None:
    alice, bob = await sides(ALICE), await sides(BOB, max_pending=4, handshake_timeout=60.0)
    strangers = [await asyncio.open_connection("127.0.0.1", bob.hub.port) for _ in range(20)]
    link = await alice.hub.open(BOB, "127.0.0.1", bob.hub.issue_ticket(ALICE, Purpose.RING), Purpose.RING)
    for reader, _ in strangers[:16]:
        assert await closed_by_remote(reader) == b""
    assert bob.hub.rejected >= 16
    assert link.closed is None
    for _, writer in strangers:
        writer.close()


async def test_strangers_are_logged_once_and_then_counted(sides: Callable[..., Any]) -> None:
    bob = await sides(BOB)
    with structlog.testing.capture_logs() as logs:
        for _ in range(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", bob.hub.port)
            writer.write(b"hello, is this a web server?")
            await closed_by_remote(reader)
            writer.close()
    assert [(log["log_level"], log["reason"]) for log in logs] == [("warning", "it does not speak this protocol")]
    assert bob.hub.rejected == 5


async def test_both_sides_notice_at_once_that_the_other_is_gone(sides: Callable[..., Any]) -> None:
    alice, bob = await sides(ALICE), await sides(BOB)
    link = await alice.hub.open(BOB, "127.0.0.1", bob.hub.issue_ticket(ALICE, Purpose.RING), Purpose.RING)
    other = await bob.accepted.next()
    gone, other_gone = lost(link), lost(other)
    other.abort("told to")
    assert await asyncio.wait_for(other_gone, DEADLINE) == "told to"
    assert await asyncio.wait_for(gone, DEADLINE)
    assert link.closed
    assert not alice.hub.links
    late = lost(link)
    assert await asyncio.wait_for(late, DEADLINE) == link.closed


async def test_an_undone_watch_is_not_called(sides: Callable[..., Any]) -> None:
    alice, bob = await sides(ALICE), await sides(BOB)
    link = await alice.hub.open(BOB, "127.0.0.1", bob.hub.issue_ticket(ALICE, Purpose.RING), Purpose.RING)
    calls: list[str] = []
    undo = link.watch(calls.append)
    undo()
    gone = lost(link)
    link.abort("over")
    await asyncio.wait_for(gone, DEADLINE)
    link.watch(calls.append)()
    await asyncio.sleep(0)
    assert calls == []


async def test_what_is_sent_where_nothing_is_expected_closes_the_link(sides: Callable[..., Any]) -> None:
    alice, bob = await sides(ALICE), await sides(BOB)
    link = await alice.hub.open(BOB, "127.0.0.1", bob.hub.issue_ticket(ALICE, Purpose.RING), Purpose.RING)
    other = await bob.accepted.next()
    gone = lost(link)
    other.send(encode(Kind.CHUNK))
    assert await asyncio.wait_for(gone, DEADLINE) == "the remote sent CHUNK, nothing was expected"


async def test_an_idle_ring_link_has_a_heartbeat(sides: Callable[..., Any]) -> None:
    alice, bob = await sides(ALICE, heartbeat=0.01), await sides(BOB)
    link = await alice.hub.open(BOB, "127.0.0.1", bob.hub.issue_ticket(ALICE, Purpose.RING), Purpose.RING)
    other = await bob.accepted.next()
    await until(lambda: other.statistics().bytes_received >= 5 * 64)
    assert link.statistics().frames_sent >= 5


async def test_drained_waits_until_the_memory_is_free(sides: Callable[..., Any]) -> None:
    class Slow:
        """Holds the first frame until it is told to read."""

        def __init__(self) -> None:
            self.open = False
            self.frames = 0

        def admit(self, header: Header, extra: bytes) -> memoryview | Verdict:
            if not self.open:
                return Verdict.HOLD
            self.frames += 1
            return memoryview(bytearray(header.payload))

        def received(self, header: Header) -> None:
            pass

        def corrupt(self, header: Header) -> None:
            raise AssertionError("corrupt")

    alice, bob = await sides(ALICE), await sides(BOB)
    link = await alice.hub.open(BOB, "127.0.0.1", bob.hub.issue_ticket(ALICE, Purpose.RING), Purpose.RING)
    other = await bob.accepted.next()
    slow = other.handler = Slow()
    payload = memoryview(bytes(1 << 20))
    head = encode(Kind.CHUNK, payload=1 << 20, payload_checksum=checksum(payload))
    sent = 0
    while not link.buffered:
        link.send(head, payload)
        sent += 1
        await asyncio.sleep(0)
    assert sent < 200, "the kernel takes any amount"
    drained = asyncio.ensure_future(link.drained())
    done, _ = await asyncio.wait((drained,), timeout=0.05)
    assert not done
    slow.open = True
    other.protocol.resume()
    await asyncio.wait_for(drained, DEADLINE)
    assert link.buffered == 0
    await until(lambda: slow.frames == sent)


async def test_drained_ends_with_the_link(sides: Callable[..., Any]) -> None:
    alice, bob = await sides(ALICE), await sides(BOB)
    link = await alice.hub.open(BOB, "127.0.0.1", bob.hub.issue_ticket(ALICE, Purpose.RING), Purpose.RING)
    other = await bob.accepted.next()
    transport = other.protocol._transport
    assert transport is not None
    transport.pause_reading()
    payload = memoryview(bytes(1 << 20))
    while not link.buffered:
        link.send(encode(Kind.CHUNK, payload=1 << 20), payload)
        await asyncio.sleep(0)
    drained = asyncio.ensure_future(link.drained())
    other.abort("gone")
    await asyncio.wait_for(drained, DEADLINE)


async def test_nobody_at_the_address_is_said_plainly(sides: Callable[..., Any]) -> None:
    alice = await sides(ALICE)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(SwarmUnreachable, match=r"peer bbbbbbbb refuses links at 127\.0\.0\.1"):
        await alice.hub.open(BOB, "127.0.0.1", Ticket(port, bytes(32)), Purpose.RING)


async def test_one_who_accepts_and_says_nothing_is_given_up(sides: Callable[..., Any]) -> None:
    alice = await sides(ALICE, handshake_timeout=0.1)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        with pytest.raises(SwarmUnreachable, match=r"did not open a link within 0\.1 s"):
            await alice.hub.open(BOB, "127.0.0.1", Ticket(mute.getsockname()[1], bytes(32)), Purpose.RING)
    await until(lambda: not alice.hub.links)


async def test_a_port_in_use_is_said_plainly(sides: Callable[..., Any]) -> None:
    alice = await sides(ALICE)
    with pytest.raises(PortInUse, match=f"127.0.0.1:{alice.hub.port} is in use"):
        await sides(BOB, port=alice.hub.port)


async def test_an_address_that_is_not_ours_is_said_plainly() -> None:
    with pytest.raises(AddressError, match="cannot listen on"):
        await LinkHub(ALICE, host="192.0.2.1").start()


async def test_closing_closes_everything_and_opens_nothing_more(sides: Callable[..., Any]) -> None:
    alice, bob = await sides(ALICE), await sides(BOB)
    await alice.hub.open(BOB, "127.0.0.1", bob.hub.issue_ticket(ALICE, Purpose.RING), Purpose.RING)
    other = await bob.accepted.next()
    gone = lost(other)
    await alice.hub.close()
    assert not alice.hub.links
    await asyncio.wait_for(gone, DEADLINE)
    with pytest.raises(Closed):
        await alice.hub.open(BOB, "127.0.0.1", bob.hub.issue_ticket(ALICE, Purpose.RING), Purpose.RING)


async def test_a_cancelled_open_leaves_nothing_behind(sides: Callable[..., Any]) -> None:
    alice = await sides(ALICE)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        task = asyncio.ensure_future(
            alice.hub.open(BOB, "127.0.0.1", Ticket(mute.getsockname()[1], bytes(32)), Purpose.RING)
        )
        await until(lambda: bool(alice.hub.links))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await until(lambda: not alice.hub.links)


@pytest.mark.skipif(sys.platform != "linux", reason="shared memory needs memfd_create and abstract sockets")
async def test_peers_on_one_machine_share_memory(sides: Callable[..., Any]) -> None:
    link, other = await ring_link(await sides(ALICE), await sides(BOB))
    slot = link.slot(100_000)
    assert slot is not None
    slot[:] = b"x" * 100_000
    assert other.protocol.borrower is not None
    assert bytes(other.protocol.borrower.slot(100_000)) == b"x" * 100_000


@pytest.mark.parametrize("wanting", [(False, True), (True, False), (False, False)])
async def test_without_the_consent_of_both_there_is_none(sides: Callable[..., Any], wanting: tuple[bool, bool]) -> None:
    alice, bob = await sides(ALICE, share_memory=wanting[0]), await sides(BOB, share_memory=wanting[1])
    link, other = await ring_link(alice, bob)
    assert link.slot(100_000) is None
    assert other.protocol.borrower is None


async def test_small_payloads_travel(sides: Callable[..., Any]) -> None:
    link, _ = await ring_link(await sides(ALICE), await sides(BOB))
    assert link.slot(100) is None


async def test_only_links_of_rings_share_memory(sides: Callable[..., Any]) -> None:
    link, other = await ring_link(await sides(ALICE), await sides(BOB), Purpose.PUSH)
    assert link.slot(100_000) is None
    assert other.protocol.borrower is None


@pytest.mark.parametrize("what", ["memfd_create", "posix_fallocate", "mmap"])
async def test_where_memory_cannot_be_had_the_link_works_without(
    sides: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    alice, bob = await sides(ALICE), await sides(BOB)
    monkeypatch.setattr(mmap if what == "mmap" else os, what, full)
    with structlog.testing.capture_logs() as logs:
        link, other = await ring_link(alice, bob)
    assert [log["why"] for log in logs if "no shared memory" in log["event"]]
    assert (link.closed, other.closed, link.shares) == (None, None, False)
    assert link.slot(100_000) is None
    assert not open_named("lepton-arena")


@pytest.mark.skipif(sys.platform != "linux", reason="shared memory needs memfd_create and abstract sockets")
async def test_who_has_no_room_for_what_is_handed_in_does_without_from_the_next_link_on(
    sides: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int) -> Borrower:
        os.close(fd)
        raise memory.Unmappable("no room")

    alice, bob = await sides(ALICE), await sides(BOB)
    monkeypatch.setattr("lepton_p2p.transport.links.link.Borrower", full)
    with structlog.testing.capture_logs() as logs:
        for _ in range(2):
            bob.hub.serve(Purpose.RING, bob.accepted)
            link = await alice.hub.open(BOB, "127.0.0.1", bob.hub.issue_ticket(ALICE, Purpose.RING), Purpose.RING)
            other = await bob.accepted.next()
            if link.shares:
                assert "no room" in await asyncio.wait_for(lost(other), DEADLINE)
    assert (link.shares, link.closed, other.closed) == (False, None, None)
    assert [log["event"] for log in logs if log["log_level"] == "warning" and "no room" in log["event"]]


@pytest.mark.skipif(sys.platform != "linux", reason="shared memory needs memfd_create and abstract sockets")
async def test_more_memory_can_be_handed_over(sides: Callable[..., Any]) -> None:
    link, other = await ring_link(await sides(ALICE), await sides(BOB))
    assert link.shares
    fd = memory.create("more", 8192)
    for number in (1, 2):
        assert link.hand_over(fd, encode(Kind.BOARD, round=number))
    mine = memory.adopt(fd)
    for number in (1, 2):
        theirs = other.collect()
        assert theirs is not None
        mine[number] = number
        assert memory.adopt(theirs)[number] == number
    assert other.collect() is None


@pytest.mark.parametrize("wanting", [(False, True), (True, False)])
async def test_without_the_consent_of_both_none_can_be_handed_over(
    sides: Callable[..., Any], wanting: tuple[bool, bool]
) -> None:
    alice, bob = await sides(ALICE, share_memory=wanting[0]), await sides(BOB, share_memory=wanting[1])
    link, other = await ring_link(alice, bob)
    sent = link.statistics().bytes_sent
    assert not link.shares
    assert not link.hand_over(0, encode(Kind.BOARD))
    assert link.statistics().bytes_sent == sent, "nothing is announced that was not handed in"
    assert other.collect() is None


async def test_a_second_arena_ends_the_link(sides: Callable[..., Any]) -> None:
    link, other = await ring_link(await sides(ALICE), await sides(BOB))
    gone = lost(other)
    link.send(encode(Kind.ARENA))
    assert "nobody handed in" in await asyncio.wait_for(gone, DEADLINE)


async def test_memory_that_was_announced_but_not_handed_in_ends_the_link(sides: Callable[..., Any]) -> None:
    link, other = await ring_link(await sides(ALICE, share_memory=False), await sides(BOB))
    gone = lost(other)
    link.send(encode(Kind.ARENA))
    assert "nobody handed in" in await asyncio.wait_for(gone, DEADLINE)


async def test_slots_given_back_that_were_not_lent_end_the_link(sides: Callable[..., Any]) -> None:
    link, other = await ring_link(await sides(ALICE), await sides(BOB))
    gone = lost(link)
    other.send(encode(Kind.RETURNED))
    assert "given back" in await asyncio.wait_for(gone, DEADLINE)


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
async def test_nothing_is_left_of_shared_memory_when_the_links_are_gone(sides: Callable[..., Any]) -> None:
    alice, bob = await sides(ALICE), await sides(BOB)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        link, other = await ring_link(alice, bob)
        ends = [lost(link), lost(other)]
        link.abort("enough")
        await asyncio.wait_for(asyncio.gather(*ends), DEADLINE)
    await until(lambda: len(os.listdir("/proc/self/fd")) <= before)


async def test_a_peer_that_is_expelled_loses_its_links_and_tickets_and_nobody_else_does(
    sides: Callable[..., Any],
) -> None:
    alice, bob, carol = await sides(ALICE), await sides(BOB), await sides(PeerId("c" * 32))
    _, hers = await ring_link(alice, bob)
    _, other = await ring_link(carol, bob)
    ticket = bob.hub.issue_ticket(ALICE, Purpose.RING)
    gone = lost(hers)
    bob.hub.expel(ALICE, "its node was revoked")
    assert await asyncio.wait_for(gone, DEADLINE) == "its node was revoked"
    with pytest.raises(SwarmUnreachable, match="refused"):
        await alice.hub.open(BOB, "127.0.0.1", ticket, Purpose.RING)
    assert other.closed is None
    assert bob.hub.links == (other,)


async def test_clients_can_be_cut_off_all_at_once(sides: Callable[..., Any]) -> None:
    client, alice, bob = await sides(None), await sides(ALICE), await sides(BOB)
    bob.hub.serve(Purpose.FETCH, bob.accepted)
    _, member = await ring_link(alice, bob)
    await client.hub.open(BOB, "127.0.0.1", bob.hub.issue_ticket(None, Purpose.FETCH), Purpose.FETCH)
    gone = lost(await bob.accepted.next())
    bob.hub.expel(None, "credentials were revoked; ask again")
    assert await asyncio.wait_for(gone, DEADLINE) == "credentials were revoked; ask again"
    assert member.closed is None
