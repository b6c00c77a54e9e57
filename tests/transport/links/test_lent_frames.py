"""Payloads that do not travel: read in place or copied, given back in any case, refused where there is no arena."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest
from fake_wire import Wire

from lepton_p2p.identity import PeerId
from lepton_p2p.transport.links.arena import BATCH, SLOT_BYTES, SLOTS, Borrower, Lender, create
from lepton_p2p.transport.links.frames import Header, Kind, checksum, encode
from lepton_p2p.transport.links.link import Link
from lepton_p2p.transport.links.protocol import FrameProtocol, Verdict
from lepton_p2p.transport.links.purpose import Purpose

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason=f"{sys.platform} has no memfd_create")


class Inbox:
    """Leaves payloads where they lie, copies them, or gives a verdict; says what it saw."""

    def __init__(self) -> None:
        self.how: str | Verdict = "in place"
        self.got: list[bytes] = []
        self.corrupted = 0
        self._memory = memoryview(b"")

    def admit(self, header: Header, extra: bytes) -> memoryview | Verdict:
        if isinstance(self.how, Verdict):
            return self.how
        self._memory = memoryview(bytearray(header.payload))
        if self.how == "in place":
            assert header.lent is not None
            self._memory = header.lent
        return self._memory

    def received(self, header: Header) -> None:
        self.got.append(bytes(self._memory))

    def corrupt(self, header: Header) -> None:
        self.corrupted += 1


class Setting:
    """A lender and the protocol of the other end."""

    def __init__(self) -> None:
        self.inbox = Inbox()
        self.control: list[Kind] = []
        self.protocol = FrameProtocol(
            self.inbox, on_lost=lambda reason: None, on_drained=lambda: None, on_control=self.control.append
        )
        self.wire = Wire()
        self.protocol.connection_made(self.wire)  # type: ignore[arg-type]
        fd = create()
        self.lender = Lender(os.dup(fd))
        self.protocol.borrower = Borrower(fd)

    def lend(self, payload: bytes, **changes: Any) -> None:
        self.lender.slot(len(payload))[:] = payload
        self.lender.lend()
        self.feed(encode(Kind.LENT, **{"payload": len(payload), "payload_checksum": checksum(payload), **changes}))

    def feed(self, data: bytes) -> None:
        buffer = self.protocol.get_buffer(-1)
        buffer[: len(data)] = data
        self.protocol.buffer_updated(len(data))


@pytest.fixture
async def setting() -> Setting:
    return Setting()


@pytest.mark.parametrize("how", ["in place", "copied"])
async def test_a_payload_is_there_with_its_header(setting: Setting, how: str) -> None:
    setting.inbox.how = how
    for number in range(2 * BATCH):
        setting.lend(b"payload %d" % number)
    assert setting.inbox.got == [b"payload %d" % number for number in range(2 * BATCH)]
    assert setting.control == [Kind.LENT, Kind.LENT], "the slots go back in batches"


async def test_what_is_thrown_away_is_given_back_as_well(setting: Setting) -> None:
    setting.inbox.how = Verdict.DRAIN
    for _ in range(BATCH):
        setting.lend(b"nobody wants it")
    assert setting.inbox.got == []
    assert setting.control == [Kind.LENT]


async def test_what_is_held_keeps_its_slot_until_it_is_wanted(setting: Setting) -> None:
    setting.inbox.how = Verdict.HOLD
    setting.lend(b"first")
    setting.lender.slot(6)[:] = b"second"
    setting.lender.lend()
    assert setting.control == []
    setting.inbox.how = "copied"
    setting.protocol.resume()
    assert setting.inbox.got == [b"first"]
    setting.feed(encode(Kind.LENT, payload=6, payload_checksum=checksum(b"second")))
    assert setting.inbox.got == [b"first", b"second"]


@pytest.mark.parametrize("how", ["in place", "copied"])
async def test_a_wrong_checksum_is_noticed(setting: Setting, how: str) -> None:
    setting.inbox.how = how
    setting.lend(b"damaged", payload_checksum=checksum(b"as it was"))
    assert (setting.inbox.got, setting.inbox.corrupted) == ([], 1)


async def test_only_what_is_read_in_place_needs_no_checksum(setting: Setting) -> None:
    setting.lend(b"in place", payload_checksum=0)
    assert setting.inbox.got == [b"in place"]
    setting.inbox.how = "copied"
    setting.lend(b"copied", payload_checksum=0)
    assert setting.inbox.corrupted == 1


async def test_without_an_arena_the_link_is_closed(setting: Setting) -> None:
    setting.protocol.borrower = None
    setting.feed(encode(Kind.LENT, payload=10))
    assert setting.wire.aborted
    assert setting.inbox.got == []


async def test_more_than_a_slot_cannot_be_announced(setting: Setting) -> None:
    setting.feed(encode(Kind.LENT, payload=SLOT_BYTES + 1))
    assert setting.wire.aborted


async def test_a_remote_that_announces_what_it_did_not_lend_reaches_no_other_memory(setting: Setting) -> None:
    for _ in range(3 * SLOTS):
        setting.feed(encode(Kind.LENT, payload=SLOT_BYTES, payload_checksum=1))
    assert setting.inbox.corrupted == 3 * SLOTS


async def test_one_who_lends_without_end_and_does_not_read_what_comes_back_loses_the_link() -> None:
    class Deaf(Wire):
        """Takes nothing from this side."""

        written = 0

        def write(self, data: bytes) -> None:
            self.written += len(data)

        def get_write_buffer_size(self) -> int:
            return self.written

        def set_write_buffer_limits(self, high: int) -> None:
            pass

        def get_extra_info(self, name: str) -> None:
            return None

    link, wire, inbox = Link(PeerId("a" * 32), Purpose.RING), Deaf(), Inbox()
    link.protocol.connection_made(wire)  # type: ignore[arg-type]
    link.attach(wire)  # type: ignore[arg-type]
    link.handler = inbox
    link.protocol.borrower = Borrower(create())
    frame = encode(Kind.LENT, payload=20_000, payload_checksum=0)
    sent = 0
    while not wire.aborted and sent < 10_000:
        buffer = link.protocol.get_buffer(-1)
        buffer[: len(frame)] = frame
        link.protocol.buffer_updated(len(frame))
        sent += 1
    assert wire.aborted
    assert wire.written < 70_000
    link.protocol.connection_lost(None)
    assert "does not read that it gets it back" in str(link.closed)
