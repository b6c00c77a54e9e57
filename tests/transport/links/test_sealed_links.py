"""Sealed links between two hubs, and what somebody on the wire or with a stolen ticket can do about them: nothing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import structlog.testing
from link_sides import ALICE, BOB, DEADLINE, Side, ask, closed_by_remote, connect, lost, ring_link, until
from man_in_the_middle import Middle, Passing

from lepton_p2p.errors import InsecureRefused, ProtocolMismatch, SwarmUnreachable
from lepton_p2p.identity import PeerId
from lepton_p2p.transport.links import Link, Purpose, Ticket
from lepton_p2p.transport.links.frames import Header, Kind, checksum, encode
from lepton_p2p.transport.links.handshake import GREETING_BYTES, PREAMBLE, SEALED_GREETING_BYTES, SEALED_PREAMBLE
from lepton_p2p.transport.links.protocol import Verdict
from lepton_p2p.transport.links.seal import SEALED_HEADER_BYTES

Sides = Callable[..., Any]
SECRETS = b"what nobody else is to read " * 20


class Inbox:
    """Keeps the payloads of CHUNK frames; ``open``: reads at all."""

    def __init__(self) -> None:
        self.open = True
        self.got: list[bytes] = []
        self.memory = bytearray()

    def admit(self, header: Header, extra: bytes) -> memoryview | Verdict:
        if not self.open:
            return Verdict.HOLD
        self.memory = bytearray(header.payload)
        return memoryview(self.memory)

    def received(self, header: Header) -> None:
        self.got.append(bytes(self.memory))

    def corrupt(self, header: Header) -> None:
        raise AssertionError("corrupt")


def send(link: Link, payload: bytes, round: int = 0) -> None:
    head = encode(Kind.CHUNK, round=round, payload=len(payload), payload_checksum=checksum(payload))
    link.send(head, memoryview(payload))


async def pair(sides: Sides, **options: Any) -> tuple[Side, Side]:
    options = {"sealed": True, "share_memory": False, "swarm": "lepton", **options}
    return await sides(ALICE, **options), await sides(BOB, **options)


async def test_what_is_sent_arrives_in_both_directions(sides: Sides) -> None:
    link, other = await ring_link(*await pair(sides))
    assert link.sealed
    assert other.sealed
    for sender, receiver in ((link, other), (other, link)):
        inbox = receiver.handler = Inbox()
        payloads = [b"", b"small", os.urandom(100_000), os.urandom(1 << 20)]
        for payload in payloads:
            send(sender, payload)
        await until(lambda inbox=inbox: len(inbox.got) == 4)
        assert inbox.got == payloads
        assert receiver.statistics().bytes_received == sender.statistics().bytes_sent


async def test_an_idle_ring_link_has_a_heartbeat(sides: Sides) -> None:
    link, other = await ring_link(*await pair(sides, heartbeat=0.01))
    await until(lambda: other.statistics().bytes_received >= 5 * SEALED_HEADER_BYTES)
    assert link.statistics().frames_sent >= 5


async def test_memory_is_free_and_nothing_lost_when_the_remote_reads_late(sides: Sides) -> None:
    """One buffer of one frame is sealed at a time: the others wait as they are, and are sealed when it has left."""
    link, other = await ring_link(*await pair(sides))
    inbox = other.handler = Inbox()
    inbox.open = False
    payloads = [os.urandom(1 << 20) for _ in range(12)]
    for payload in payloads:
        send(link, payload)
    await asyncio.sleep(0)
    assert link.buffered > 1 << 20
    assert not link.ready
    drained = asyncio.ensure_future(link.drained())
    inbox.open = True
    other.protocol.resume()
    await asyncio.wait_for(drained, DEADLINE)
    assert link.buffered == 0
    await until(lambda: len(inbox.got) == 12)
    assert inbox.got == payloads


async def test_close_sends_what_waits_to_be_sealed(sides: Sides) -> None:
    link, other = await ring_link(*await pair(sides))
    inbox = other.handler = Inbox()
    inbox.open = False
    gone = lost(other)
    for number in range(12):
        send(link, bytes([number]) * (1 << 20))
    assert link.buffered > 1 << 20
    link.close()
    send(link, b"too late")
    inbox.open = True
    other.protocol.resume()
    await asyncio.wait_for(gone, DEADLINE)
    assert [payload[:1] for payload in inbox.got] == [bytes([number]) for number in range(12)]


async def test_ends_forget_their_keys_and_what_waits_when_the_link_is_gone(sides: Sides) -> None:
    link, other = await ring_link(*await pair(sides))
    other.handler = Inbox()
    other.handler.open = False
    for _ in range(12):
        send(link, bytes(1 << 20))
    ends = [lost(link), lost(other)]
    link.abort("enough")
    other.abort("enough")  # it does not read, and would not notice
    await asyncio.wait_for(asyncio.gather(*ends), DEADLINE)
    for one in (link, other):
        assert one.buffered == 0
        assert one._sealer is not None
        assert one.protocol._opener is not None
        for end in (one._sealer, one.protocol._opener):
            assert end._chain._secret == bytes(32)
            assert end._chain._cipher is None


async def test_peers_on_one_machine_share_memory_and_the_door_s_secret_is_sealed(sides: Sides) -> None:
    alice, bob = await pair(sides, share_memory=True)
    async with Middle(bob.hub.port) as middle:
        link = await connect(alice, bob, port=middle.port)
        other = await bob.accepted.next()
        await until(lambda: other.protocol.borrower is not None)
        slot = link.slot(100_000)
        assert slot is not None
        slot[:] = SECRETS[:1] * 100_000
        inbox = other.handler = Inbox()
        head = encode(Kind.LENT, payload=100_000, payload_checksum=checksum(slot))
        link.send_lent(head, 100_000)
        await until(lambda: inbox.got == [SECRETS[:1] * 100_000])
        assert bob.hub._door is not None
        (secret,) = bob.hub._door._offered
        assert secret not in middle.passing[0].back


async def test_a_client_has_sealed_links_too(sides: Sides) -> None:
    bob = await sides(BOB, sealed=True)
    client = Side(None, sealed=True)
    try:
        link, other = await ring_link(client, bob, Purpose.FETCH)
        assert other.remote is None
        inbox = other.handler = Inbox()
        send(link, b"hello")
        await until(lambda: inbox.got == [b"hello"])
    finally:
        await client.hub.close()


# -- no downgrade --------------------------------------------------------------------------------------


async def test_where_links_are_sealed_no_ticket_is_given_for_an_open_one(sides: Sides) -> None:
    alice, bob = await sides(ALICE), await sides(BOB, sealed=True)
    with pytest.raises(InsecureRefused, match="this peer seals its links, the other side does not: start all peers"):
        ask(alice, bob)
    with pytest.raises(InsecureRefused, match="the caller seals its links"):
        ask(bob, alice)


async def test_a_ticket_for_an_open_link_is_not_used_where_links_are_sealed(sides: Sides) -> None:
    alice, bob = await sides(ALICE, sealed=True), await sides(BOB)
    ticket = bob.hub.issue_ticket(ALICE, Purpose.RING)
    with pytest.raises(InsecureRefused, match="this peer seals its links"):
        await alice.hub.open(BOB, "127.0.0.1", ticket, Purpose.RING, alice.hub.propose())
    with pytest.raises(InsecureRefused, match="peer bbbbbbbb seals its links"):
        await bob.hub.open(BOB, "127.0.0.1", replace(ticket, share=b"s" * 32), Purpose.RING)
    assert not alice.hub.links


@pytest.mark.parametrize(
    ("sealed", "greeting", "reason"),
    [
        (True, PREAMBLE, "it asked for an open link, and the links of this peer are sealed"),
        (False, SEALED_PREAMBLE, "it asked for a sealed link, and the links of this peer are open"),
    ],
)
async def test_the_other_kind_of_link_is_refused_at_the_port_whatever_its_ticket(
    sides: Sides, sealed: bool, greeting: bytes, reason: str
) -> None:
    alice, bob = await sides(ALICE, sealed=sealed), await sides(BOB, sealed=sealed)
    ticket, _ = ask(alice, bob)
    with structlog.testing.capture_logs() as logs:
        reader, writer = await asyncio.open_connection("127.0.0.1", bob.hub.port)
        writer.write((greeting + ticket.token + bytes(16))[: SEALED_GREETING_BYTES if sealed else GREETING_BYTES])
        assert await closed_by_remote(reader) == b""
    writer.close()
    assert [log["reason"].startswith(reason) for log in logs] == [True]
    assert not bob.hub.links


@pytest.mark.parametrize("share", [bytes(32), b"\x01" + bytes(31)])
async def test_shares_that_would_make_a_known_secret_are_refused_on_both_sides(sides: Sides, share: bytes) -> None:
    alice, bob = await pair(sides)
    with pytest.raises(ProtocolMismatch, match="no secret"):
        bob.hub.issue_ticket(ALICE, Purpose.RING, share)
    ticket = Ticket(bob.hub.port, bytes(32), share)
    with pytest.raises(ProtocolMismatch, match="no secret"):
        await alice.hub.open(BOB, "127.0.0.1", ticket, Purpose.RING, alice.hub.propose())


# -- somebody with a ticket that is not theirs ---------------------------------------------------------


async def test_a_token_without_its_keys_opens_nothing_and_is_void_from_then_on(sides: Sides) -> None:
    alice, bob = await pair(sides)
    ticket, share = ask(alice, bob)
    with structlog.testing.capture_logs() as logs:
        reader, writer = await asyncio.open_connection("127.0.0.1", bob.hub.port)
        writer.write(SEALED_PREAMBLE + ticket.token + os.urandom(16))
        assert await closed_by_remote(reader) == b""
    writer.close()
    assert [log["reason"] for log in logs] == ["it does not have the keys that belong to its ticket"]
    assert not bob.hub.links
    with pytest.raises(SwarmUnreachable, match="refused"):
        await alice.hub.open(BOB, "127.0.0.1", ticket, Purpose.RING, share)


async def test_no_link_is_made_before_the_proof_is_there(sides: Sides) -> None:
    alice, bob = await pair(sides)
    ticket, _ = ask(alice, bob)
    _, writer = await asyncio.open_connection("127.0.0.1", bob.hub.port)
    writer.write(SEALED_PREAMBLE + ticket.token + bytes(15))
    await until(lambda: len(bob.hub._pending) == 1)
    assert not bob.hub.links
    writer.close()
    await until(lambda: len(bob.hub._pending) == 0)
    assert bob.hub.rejected == 1


@pytest.mark.parametrize("who", ["swarm", "connector", "acceptor", "purpose"])
async def test_a_ticket_for_something_else_opens_nothing(sides: Sides, who: str) -> None:
    """The acceptor's control plane took the call for another's, or this peer meant another: they share no key."""
    alice, bob = await pair(sides)
    bob.hub.serve(Purpose.PUSH, bob.accepted)
    share = alice.hub.propose()
    assert share is not None
    meant, purpose = BOB, Purpose.RING
    if who == "swarm":
        alice.hub._swarm = "other"
    if who == "acceptor":
        meant = PeerId("e" * 32)
    if who == "purpose":
        purpose = Purpose.PUSH
    caller = PeerId("e" * 32) if who == "connector" else ALICE
    ticket = bob.hub.issue_ticket(caller, Purpose.RING, share.public)
    with pytest.raises(SwarmUnreachable, match="refused"):
        await alice.hub.open(meant, "127.0.0.1", ticket, purpose, share)
    assert not bob.hub.links


# -- somebody on the wire ------------------------------------------------------------------------------


async def through(sides: Sides, middle: Middle, alice: Side, bob: Side) -> tuple[Link, Link, Inbox]:
    link = await connect(alice, bob, port=middle.port)
    other = await bob.accepted.next()
    inbox = Inbox()
    other.handler = inbox
    return link, other, inbox


async def test_one_who_listens_reads_nothing(sides: Sides) -> None:
    alice, bob = await pair(sides)
    async with Middle(bob.hub.port) as middle:
        link, _, inbox = await through(sides, middle, alice, bob)
        send(link, SECRETS)
        await until(lambda: inbox.got == [SECRETS])
        heard = bytes(middle.passing[0].out)
    assert heard.startswith(SEALED_PREAMBLE)
    assert SECRETS[:28] not in heard


def flip(at: int, outbound: bool = True) -> Callable[[Passing, bool, bytes], bytes]:
    """Changes one bit of the byte at position ``at``, after the greeting, of what goes in one direction."""

    def change(passing: Passing, out: bool, data: bytes) -> bytes:
        start = len(passing.out) - SEALED_GREETING_BYTES if out else len(passing.back)
        if out is not outbound or not start <= at < start + len(data):
            return data
        changed = bytearray(data)
        changed[at - start] ^= 4
        return bytes(changed)

    return change


@pytest.mark.parametrize("at", [0, 40, 79, 80, 80 + 300, 80 + 575])
async def test_one_who_changes_a_bit_of_a_frame_breaks_the_link_and_it_is_not_seen(sides: Sides, at: int) -> None:
    alice, bob = await pair(sides)
    async with Middle(bob.hub.port, flip(at)) as middle:
        link, other, inbox = await through(sides, middle, alice, bob)
        gone, gone_too = lost(other), lost(link)
        send(link, SECRETS)
        assert "do not open" in await asyncio.wait_for(gone, DEADLINE)
        await asyncio.wait_for(gone_too, DEADLINE)
    assert inbox.got == []
    assert not any(inbox.memory)


@pytest.mark.parametrize(("at", "outbound"), [(-40, True), (-1, True), (10, False), (79, False)])
async def test_one_who_changes_a_bit_of_greeting_or_welcome_lets_no_link_come_about(
    sides: Sides, at: int, outbound: bool
) -> None:
    alice, bob = await pair(sides)
    async with Middle(bob.hub.port, flip(at, outbound)) as middle:
        with pytest.raises(SwarmUnreachable, match="refused"):
            await connect(alice, bob, port=middle.port)
        await until(lambda: not bob.hub.links)


async def test_one_who_sends_frames_back_where_they_came_from_breaks_the_link(sides: Sides) -> None:
    alice, bob = await pair(sides)

    def reflect(passing: Passing, outbound: bool, data: bytes) -> bytes:
        # Instead of the WELCOME: the connector's own proof, the one sealed thing that it has sent.
        return data if outbound else bytes(passing.out[-16:]) + bytes(64)

    async with Middle(bob.hub.port, reflect) as middle:
        with pytest.raises(SwarmUnreachable, match="do not open"):
            await connect(alice, bob, port=middle.port)


async def test_one_who_repeats_a_frame_breaks_the_link_and_the_frame_counts_once(sides: Sides) -> None:
    alice, bob = await pair(sides)
    frame_bytes = SEALED_HEADER_BYTES + len(SECRETS) + 16

    def repeat(passing: Passing, outbound: bool, data: bytes) -> bytes:
        return data * 2 if outbound and len(data) == frame_bytes else data

    async with Middle(bob.hub.port, repeat) as middle:
        link, other, inbox = await through(sides, middle, alice, bob)
        gone = lost(other)
        send(link, SECRETS)
        assert "do not open" in await asyncio.wait_for(gone, DEADLINE)
    assert inbox.got == [SECRETS]


async def test_one_who_repeats_a_whole_conversation_is_refused_at_the_door(sides: Sides) -> None:
    alice, bob = await pair(sides)
    async with Middle(bob.hub.port) as middle:
        link, _, inbox = await through(sides, middle, alice, bob)
        send(link, SECRETS)
        await until(lambda: inbox.got == [SECRETS])
        heard = bytes(middle.passing[0].out)
    reader, writer = await asyncio.open_connection("127.0.0.1", bob.hub.port)
    writer.write(heard)
    assert await closed_by_remote(reader) == b""
    writer.close()
    assert bob.hub.rejected == 1


async def test_one_who_puts_frames_of_another_link_in_breaks_the_link(sides: Sides) -> None:
    """The same two peers, the same purpose, the same number of frames before: only the link is another."""
    alice, bob = await pair(sides)
    heard: list[bytes] = []

    def swap(passing: Passing, outbound: bool, data: bytes) -> bytes:
        if not outbound or not passing.out:
            return data
        heard.append(data)
        return heard[0]

    async with Middle(bob.hub.port, swap) as middle:
        first, other, inbox = await through(sides, middle, alice, bob)
        send(first, SECRETS)
        await until(lambda: inbox.got == [SECRETS])
        second, other, inbox = await through(sides, middle, alice, bob)
        gone = lost(other)
        send(second, SECRETS)
        assert "do not open" in await asyncio.wait_for(gone, DEADLINE)
    assert inbox.got == []


async def test_one_who_cuts_a_frame_off_breaks_the_link_and_it_is_not_seen(sides: Sides) -> None:
    alice, bob = await pair(sides)
    sent = asyncio.Event()

    def cut(passing: Passing, outbound: bool, data: bytes) -> bytes:
        if outbound and passing.out:
            sent.set()
            return data[:-1]
        return data

    async with Middle(bob.hub.port, cut) as middle:
        link, other, inbox = await through(sides, middle, alice, bob)
        gone = lost(other)
        send(link, SECRETS)
        await asyncio.wait_for(sent.wait(), DEADLINE)
    await asyncio.wait_for(gone, DEADLINE)
    assert inbox.got == []
    assert not any(inbox.memory)


# -- members that want too much ------------------------------------------------------------------------


@pytest.mark.parametrize(("purpose", "most"), [(Purpose.RING, 8), (Purpose.FETCH, 32)])
async def test_a_peer_has_so_many_links_of_one_purpose_and_no_more(sides: Sides, purpose: Purpose, most: int) -> None:
    alice, bob = await pair(sides)
    bob.hub.serve(purpose, bob.accepted)
    links = [await connect(alice, bob, purpose) for _ in range(most)]
    with structlog.testing.capture_logs() as logs, pytest.raises(SwarmUnreachable, match="refused"):
        await connect(alice, bob, purpose)
    assert [log["reason"] for log in logs] == [f"its peer has {most} {purpose.name} links already"]
    carol = await sides(PeerId("c" * 32), sealed=True, swarm="lepton")
    await connect(carol, bob, purpose)
    gone = [lost(await bob.accepted.next()) for _ in range(most)]
    links[0].abort("one less")
    await asyncio.wait_for(asyncio.wait(gone, return_when=asyncio.FIRST_COMPLETED), DEADLINE)
    await connect(alice, bob, purpose)
