"""Which chunk goes where: to the attempt that waits, to the waiting line, or nowhere."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.rounds.epoch import Ballot, Epoch, Member
from lepton_p2p.transport.links import Arrivals, Link, Purpose
from lepton_p2p.transport.links.frames import Header, Kind, checksum, encode

LEFT, ME, OTHER = PeerId("1" * 32), PeerId("2" * 32), PeerId("3" * 32)


def epoch(number: int, proposer: PeerId = ME) -> Epoch:
    members = tuple(Member(PeerInfo(one, "127.0.0.1:1"), 1) for one in (LEFT, ME, OTHER))
    return Epoch(number, Ballot(number, proposer), members)


class Wire:
    """A transport that remembers whether it is paused and reports its own end."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.paused = False
        self.gone = False
        self.pauses = 0
        link.protocol.connection_made(self)  # type: ignore[arg-type]
        link.attach(self)  # type: ignore[arg-type]

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def get_extra_info(self, name: str) -> None:
        return None

    def pause_reading(self) -> None:
        self.paused = True
        self.pauses += 1

    def resume_reading(self) -> None:
        self.paused = False

    def is_closing(self) -> bool:
        return self.gone

    def abort(self) -> None:
        if not self.gone:
            self.gone = True
            self._link.protocol.connection_lost(None)

    def feed(self, data: bytes) -> None:
        view = memoryview(data)
        while view and not self.gone:
            assert not self.paused, "the link is not being read"
            buffer = self._link.protocol.get_buffer(-1)
            count = min(len(view), len(buffer))
            buffer[:count] = view[:count]
            view = view[count:]
            self._link.protocol.buffer_updated(count)


class Sink:
    """An attempt that takes everything."""

    def __init__(self) -> None:
        self.got: list[tuple[int, bytes]] = []
        self.events: list[Any] = []
        self.memory = bytearray()

    def admit(self, header: Header, extra: bytes) -> memoryview | None:
        self.memory = bytearray(header.payload)
        return memoryview(self.memory)

    def received(self, header: Header) -> None:
        self.got.append((header.round, bytes(self.memory)))

    def corrupt(self, header: Header) -> None:
        self.events.append(("corrupt", header.round))

    def lost(self, reason: str) -> None:
        self.events.append(("lost", reason))

    def overtaken(self, epoch: int, round: int) -> None:
        self.events.append(("overtaken", epoch, round))


class Neighbourhood:
    """Arrivals with a ring link from LEFT and one from OTHER."""

    def __init__(self) -> None:
        self.lost: list[tuple[PeerId, str]] = []
        self.arrivals = Arrivals(lambda peer, reason: self.lost.append((peer, reason)))
        self.left, self.left_wire = self.link(LEFT)
        self.other, self.other_wire = self.link(OTHER)

    def link(self, remote: PeerId) -> tuple[Link, Wire]:
        link = Link(remote, Purpose.RING)
        wire = Wire(link)
        self.arrivals.accept(link)
        return link, wire


@pytest.fixture
async def near() -> Neighbourhood:
    return Neighbourhood()


def chunk(at: Epoch, round: int, payload: bytes = b"payload") -> bytes:
    head = encode(
        Kind.CHUNK,
        epoch=at.number,
        tag=at.tag,
        round=round,
        payload=len(payload),
        payload_checksum=checksum(payload),
    )
    return head + payload


async def test_an_expected_chunk_from_the_left_goes_to_the_sink(near: Neighbourhood) -> None:
    sink = Sink()
    near.arrivals.expect(epoch(1), 1, LEFT, sink)
    near.left_wire.feed(chunk(epoch(1), 1))
    assert sink.got == [(1, b"payload")]


@pytest.mark.parametrize("at", [epoch(1), epoch(2)], ids=["later round", "later epoch"])
async def test_a_chunk_from_further_on_waits_until_somebody_expects_it(near: Neighbourhood, at: Epoch) -> None:
    near.arrivals.advance(epoch(1).number, epoch(1).tag)
    near.left_wire.feed(chunk(at, 2))
    assert near.left_wire.paused
    for _ in range(5):
        near.arrivals.advance(epoch(1).number, epoch(1).tag)
    assert near.left_wire.paused
    assert near.left_wire.pauses == 1, "a held link is left alone"
    sink = Sink()
    near.arrivals.expect(at, 2, LEFT, sink)
    assert sink.got == [(2, b"payload")]
    assert not near.left_wire.paused


@pytest.mark.parametrize(
    ("at", "round"),
    [(epoch(1), 5), (epoch(2, OTHER), 5), (epoch(2), 4)],
    ids=["older epoch", "same number, other epoch", "older round"],
)
async def test_a_stale_chunk_is_read_and_thrown_away(near: Neighbourhood, at: Epoch, round: int) -> None:
    sink = Sink()
    near.arrivals.expect(epoch(2), 5, LEFT, sink)
    near.left_wire.feed(chunk(at, round, b"stale" * 30_000) + chunk(epoch(2), 5))
    assert sink.got == [(5, b"payload")]
    assert sink.events == []


async def test_a_chunk_that_waits_becomes_stale_when_the_epoch_moves_past_it(near: Neighbourhood) -> None:
    near.left_wire.feed(chunk(epoch(2), 1))
    assert near.left_wire.paused
    near.arrivals.advance(3, epoch(3).tag)
    assert not near.left_wire.paused
    sink = Sink()
    near.arrivals.expect(epoch(3), 1, LEFT, sink)
    near.left_wire.feed(chunk(epoch(3), 1))
    assert sink.got == [(1, b"payload")]


async def test_a_round_that_was_given_up_is_stale_the_next_one_waits(near: Neighbourhood) -> None:
    sink = Sink()
    near.arrivals.expect(epoch(1), 1, LEFT, sink)
    near.arrivals.forget()
    near.left_wire.feed(chunk(epoch(1), 1))
    assert not near.left_wire.paused
    near.left_wire.feed(chunk(epoch(1), 2))
    assert near.left_wire.paused
    assert sink.got == []


async def test_nothing_is_written_to_the_memory_of_a_round_that_was_given_up(near: Neighbourhood) -> None:
    sink = Sink()
    near.arrivals.expect(epoch(1), 1, LEFT, sink)
    stream = chunk(epoch(1), 1, b"\xff" * 50_000)
    near.left_wire.feed(stream[:20_000])
    near.arrivals.forget()
    sink.memory[:] = bytes(50_000)
    near.left_wire.feed(stream[20_000:])
    assert sink.memory == bytes(50_000)
    assert sink.got == []
    near.arrivals.expect(epoch(1), 2, LEFT, sink)
    near.left_wire.feed(chunk(epoch(1), 2))
    assert sink.got == [(2, b"payload")]


async def test_a_wrong_checksum_is_told_to_the_sink(near: Neighbourhood) -> None:
    sink = Sink()
    near.arrivals.expect(epoch(1), 1, LEFT, sink)
    near.left_wire.feed(chunk(epoch(1), 1)[:-1] + b"!")
    assert sink.events == [("corrupt", 1)]


async def test_a_chunk_from_somebody_else_than_the_left_neighbour_closes_that_link(near: Neighbourhood) -> None:
    sink = Sink()
    near.arrivals.expect(epoch(1), 1, LEFT, sink)
    near.other_wire.feed(chunk(epoch(1), 1))
    assert near.other.closed == "it sent a chunk but is not the left neighbour"
    assert near.lost == [(OTHER, near.other.closed)]
    assert sink.got == sink.events == []


async def test_anything_but_chunks_on_a_ring_link_closes_it(near: Neighbourhood) -> None:
    near.other_wire.feed(encode(Kind.FETCH, extra=b"request"))
    assert near.other.closed == "the remote sent FETCH on a ring link"


async def test_a_left_neighbour_that_went_on_is_told_to_the_sink(near: Neighbourhood) -> None:
    sink = Sink()
    near.arrivals.expect(epoch(1), 1, LEFT, sink)
    near.left_wire.feed(chunk(epoch(2), 1))
    await asyncio.sleep(0)
    assert sink.events == [("overtaken", 2, 1)]


async def test_the_loss_of_the_left_link_is_told_to_the_sink_and_of_any_to_the_owner(near: Neighbourhood) -> None:
    sink = Sink()
    near.arrivals.expect(epoch(1), 1, LEFT, sink)
    near.other.abort("first")
    assert sink.events == []
    near.left.abort("second")
    assert sink.events == [("lost", "second")]
    assert near.lost == [(OTHER, "first"), (LEFT, "second")]
    assert near.arrivals.link_from(LEFT) is None


async def test_a_link_lost_between_two_rounds_breaks_the_second_at_once(near: Neighbourhood) -> None:
    sink = Sink()
    near.arrivals.advance(1, epoch(1).tag)
    near.left.abort("died in between")
    near.arrivals.expect(epoch(1), 1, LEFT, sink)
    await asyncio.sleep(0)
    assert sink.events == [("lost", "died in between")]


async def test_a_link_lost_in_an_earlier_epoch_is_waited_for(near: Neighbourhood) -> None:
    sink = Sink()
    near.arrivals.advance(1, epoch(1).tag)
    near.left.abort("died in between")
    near.arrivals.expect(epoch(2), 1, LEFT, sink)
    await asyncio.sleep(0)
    assert sink.events == []
    _, wire = near.link(LEFT)
    wire.feed(chunk(epoch(2), 1))
    assert sink.got == [(1, b"payload")]


async def test_a_newer_link_from_the_same_peer_replaces_the_older_one_without_a_loss(near: Neighbourhood) -> None:
    sink = Sink()
    near.arrivals.expect(epoch(1), 1, LEFT, sink)
    newer, wire = near.link(LEFT)
    assert near.left.closed == "replaced by a newer link from the same peer"
    assert sink.events == near.lost == []
    assert near.arrivals.link_from(LEFT) is newer
    wire.feed(chunk(epoch(1), 1))
    assert sink.got == [(1, b"payload")]


async def test_a_ring_link_from_a_client_is_refused(near: Neighbourhood) -> None:
    link = Link(None, Purpose.RING)
    Wire(link)
    near.arrivals.accept(link)
    assert link.closed == "a ring link must come from a peer"


async def test_after_leaving_a_lineage_chunks_of_another_with_lower_numbers_wait_instead_of_being_lost(
    near: Neighbourhood,
) -> None:
    near.arrivals.advance(9, epoch(9).tag)
    near.arrivals.leave()
    assert near.left_wire.gone, "members must notice"
    _, wire = near.link(LEFT)  # admitted elsewhere: its left neighbour there begins before it knows of the epoch
    wire.feed(chunk(epoch(4), 3))
    assert wire.paused
    sink = Sink()
    near.arrivals.advance(4, epoch(4).tag)
    near.arrivals.expect(epoch(4), 3, LEFT, sink)
    assert [round for round, _ in sink.got] == [3]


@pytest.mark.parametrize("useless", ["stale", "boards"])
async def test_one_who_sends_without_end_what_nobody_waits_for_loses_its_link(
    monkeypatch: pytest.MonkeyPatch, useless: str
) -> None:
    monkeypatch.setattr("lepton_p2p.transport.links.arrivals._USELESS", (10, 0.0))
    near, sink = Neighbourhood(), Sink()
    near.arrivals.on_board = lambda link, header: None
    near.arrivals.expect(epoch(2), 7, LEFT, sink)
    frame = chunk(epoch(1), 7) if useless == "stale" else encode(Kind.BOARD, epoch=2)
    near.other_wire.feed(frame * 10)
    assert near.lost == []
    near.other_wire.feed(frame)
    assert near.lost == [(OTHER, "it sent too many frames that nobody waits for")]
    near.left_wire.feed(chunk(epoch(2), 7) * 20)
    assert len(sink.got) == 20, "what is waited for is not counted"


async def test_what_is_left_of_a_large_round_may_still_come_when_it_is_over(near: Neighbourhood) -> None:
    near.arrivals.advance(2, epoch(2).tag)
    near.left_wire.feed(chunk(epoch(1), 7, b"") * 20_000)
    assert near.lost == []
