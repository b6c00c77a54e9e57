"""The ring without sockets: any sizes, any interleaving of the links, the same result everywhere."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_p2p.rounds.layout import Group, Layout
from lepton_p2p.rounds.ring import (
    Operation,
    Outgoing,
    Phase,
    ProtocolViolation,
    RingProgress,
    decode_records,
    encode_records,
)


class Member:
    """One rank with buffers of bytes that are added modulo 256."""

    def __init__(self, world: int, rank: int, layout: Layout, reduce_hops: int, source: bytes) -> None:
        self.progress = RingProgress(world, rank, layout, reduce_hops, b"record of %d" % rank)
        self.source = source
        self.work = bytearray(layout.total)
        self.sent = 0
        self.hops: list[int] = []
        self.inbox: deque[tuple[Outgoing, bytes]] = deque()

    def begin(self) -> list[tuple[Outgoing, bytes]]:
        if self.progress.world == 1:
            self.work[:] = self.source
        own = []
        for outgoing in self.progress.begin():
            span = slice(outgoing.chunk.start, outgoing.chunk.stop)
            self.work[span] = self.source[span]
            own.append(self._count(outgoing))
        return own

    def receive(self) -> list[tuple[Outgoing, bytes]]:
        outgoing, payload = self.inbox.popleft()
        chunk = outgoing.chunk
        step = self.progress.announced(outgoing.phase, chunk.segment, chunk.index, len(payload), outgoing.extra)
        if step.opens:
            self.hops.append(step.hop)
        span = slice(chunk.start, chunk.stop)
        if step.operation is not Operation.STORE:
            payload = bytes((a + b) % 256 for a, b in zip(payload, self.source[span], strict=True))
        self.work[span] = payload
        onward = self.progress.completed(step)
        return [] if onward is None else [self._count(onward)]

    def _count(self, outgoing: Outgoing) -> tuple[Outgoing, bytes]:
        payload = bytes(self.work[outgoing.chunk.start : outgoing.chunk.stop])
        self.sent += len(payload)
        return outgoing, payload


class OnBoard(Member):
    """One rank that works on what all see: nothing is carried, so that the payloads here are empty."""

    board = bytearray()
    stride = 1

    def __init__(self, world: int, rank: int, layout: Layout, reduce_hops: int, source: bytes) -> None:
        super().__init__(world, rank, layout, reduce_hops, source)
        stride = self.stride if reduce_hops else 1
        self.progress = RingProgress(world, rank, layout, reduce_hops, b"record of %d" % rank, stride=stride)
        self.work = self.board
        self.seen: list[tuple[int, bytes]] = []
        """Where final bytes were announced, and which lay there then."""

    def receive(self) -> list[tuple[Outgoing, bytes]]:
        outgoing, _ = self.inbox.popleft()
        chunk = outgoing.chunk
        step = self.progress.announced(outgoing.phase, chunk.segment, chunk.index, None, outgoing.extra)
        if step.opens:
            self.hops.append(step.hop)
        span = slice(chunk.start, chunk.stop)
        if step.operation is Operation.STORE:
            for one in self.progress.layout.segments[chunk.segment][step.first : chunk.index + 1]:
                self.seen.append((one.start, bytes(self.board[one.start : one.stop])))
        else:
            self.board[span] = bytes((a + b) % 256 for a, b in zip(self.board[span], self.source[span], strict=True))
        onward = self.progress.completed(step)
        return [] if onward is None else [self._count(onward)]


def run(
    layout: Layout,
    sources: list[bytes],
    reduce_hops: int,
    scheduler: random.Random,
    kind: Callable[[int, int, Layout, int, bytes], Member] = Member,
) -> list[Member]:
    """Deliver in any order that keeps each link first in, first out."""
    world = len(sources)
    members = [kind(world, rank, layout, reduce_hops, source) for rank, source in enumerate(sources)]
    unstarted = list(range(world))
    while True:
        ready = [m.progress.rank for m in members if m.inbox and m.progress.rank not in unstarted]
        choices = ready + unstarted
        if not choices:
            return members
        rank = scheduler.choice(choices)
        if rank in unstarted:
            unstarted.remove(rank)
            out = members[rank].begin()
        else:
            out = members[rank].receive()
        members[(rank + 1) % world].inbox.extend(out)


sizes = st.one_of(st.integers(0, 40), st.integers(0, 3000))


@settings(deadline=None)
@given(st.integers(1, 9), sizes, sizes, st.integers(64, 512), st.randoms(use_true_random=False))
def test_all_reduce_gives_everybody_the_sum_and_all_records(
    world: int, first: int, second: int, chunk_bytes: int, scheduler: random.Random
) -> None:
    start = -(-first // 64) * 64
    groups = [Group("uint8", 1, 0, first), Group("float64", 8, start, start + second // 8 * 8)]
    layout = Layout.even(groups, world, chunk_bytes=chunk_bytes)
    sources = [scheduler.randbytes(layout.total) for _ in range(world)]
    members = run(layout, sources, world - 1, scheduler)
    expected = bytes(sum(column) % 256 for column in zip(*sources, strict=True))
    for member in members:
        assert member.progress.done
        for chunk in layout.chunks():
            assert member.work[chunk.start : chunk.stop] == expected[chunk.start : chunk.stop]
        assert member.progress.ordered_records() == tuple(b"record of %d" % rank for rank in range(world))
        assert sorted(member.hops) == list(range(1, 2 * (world - 1) + 1))


@settings(deadline=None)
@given(st.integers(1, 9), sizes, st.randoms(use_true_random=False))
def test_every_peer_sends_two_times_world_minus_one_over_world_of_the_bytes(
    world: int, size: int, scheduler: random.Random
) -> None:
    layout = Layout.even([Group("uint8", 1, 0, size)], world, chunk_bytes=256)
    members = run(layout, [bytes(size)] * world, world - 1, scheduler)
    assert sum(member.sent for member in members) == 2 * (world - 1) * size
    for member in members:
        assert abs(member.sent - 2 * (world - 1) * size / world) <= 2 * 2 * 64


@settings(deadline=None)
@given(st.lists(st.integers(0, 1500), min_size=1, max_size=7), st.randoms(use_true_random=False))
def test_all_gather_gives_everybody_the_slots_of_all(slot_sizes: list[int], scheduler: random.Random) -> None:
    world = len(slot_sizes)
    layout = Layout.slots(slot_sizes, chunk_bytes=256)
    slots = [scheduler.randbytes(size) for size in slot_sizes]
    sources = []
    for rank, segment in enumerate(layout.segments):
        source = bytearray(layout.total)
        source[segment[0].start : segment[-1].stop] = slots[rank]
        sources.append(bytes(source))
    for member in run(layout, sources, 0, scheduler):
        if world > 1:
            assert bytes(member.work) == b"".join(slots)
        assert member.progress.done
        assert len(member.progress.records) == world
        assert sorted(member.hops) == list(range(1, world))


@settings(deadline=None)
@given(st.integers(2, 9), sizes, sizes, st.integers(1, 5), st.randoms(use_true_random=False))
def test_on_a_board_everybody_sees_the_sum_in_one_place_and_nothing_that_is_not_final(
    world: int, first: int, second: int, stride: int, scheduler: random.Random
) -> None:
    start = -(-first // 64) * 64
    groups = [Group("uint8", 1, 0, first), Group("float64", 8, start, start + second // 8 * 8)]
    layout = Layout.even(groups, world, chunk_bytes=128)
    sources = [scheduler.randbytes(layout.total) for _ in range(world)]

    class Here(OnBoard):
        board = bytearray(scheduler.randbytes(layout.total))

    Here.stride = stride
    expected = bytes(sum(column) % 256 for column in zip(*sources, strict=True))
    for member in run(layout, sources, world - 1, scheduler, Here):
        assert member.progress.done
        assert member.progress.ordered_records() == tuple(b"record of %d" % rank for rank in range(world))
        assert sorted(member.hops) == list(range(1, 2 * (world - 1) + 1))
        assert isinstance(member, OnBoard)
        others = [
            chunk for row in layout.segments for chunk in row if row[0].segment != (member.progress.rank + 1) % world
        ]
        assert sorted(place for place, _ in member.seen) == sorted(chunk.start for chunk in others)
        for place, seen in member.seen:
            assert seen == expected[place : place + len(seen)]


@given(st.lists(st.binary(max_size=100), max_size=9))
def test_records_survive_encoding(records: list[bytes]) -> None:
    assert decode_records(encode_records(records), len(records)) == records


@given(st.binary(max_size=300), st.integers(0, 5))
def test_decoding_records_from_anything_is_either_right_or_refused(extra: bytes, limit: int) -> None:
    try:
        records = decode_records(extra, limit)
    except ProtocolViolation:
        return
    assert encode_records(records) == extra
    assert len(records) <= limit


LAYOUT = Layout.even([Group("uint8", 1, 0, 64 * 12)], 3, chunk_bytes=128)


def record(*ranks: int) -> bytes:
    return encode_records([b"record of %d" % rank for rank in ranks])


@pytest.fixture
def ring() -> RingProgress:
    """Rank 1 of 3, begun: two chunks per segment of 256 bytes."""
    progress = RingProgress(3, 1, LAYOUT, 2, b"record of 1")
    progress.begin()
    return progress


def test_what_a_chunk_means_depends_on_how_far_it_has_come(ring: RingProgress) -> None:
    step = ring.announced(Phase.REDUCE, 0, 0, 128, record(0))
    assert (step.operation, step.hop, step.forward) == (Operation.REDUCE, 1, Phase.REDUCE)
    onward = ring.completed(step)
    assert onward is not None
    assert onward.extra == record(0, 1)
    step = ring.announced(Phase.REDUCE, 2, 0, 128, record(2, 0))
    assert (step.operation, step.hop, step.forward) == (Operation.FINISH, 2, Phase.GATHER)
    onward = ring.completed(step)
    assert onward is not None
    assert (onward.phase, onward.extra) == (Phase.GATHER, record(2, 0, 1))


def test_the_last_gathering_hop_ends_here(ring: RingProgress) -> None:
    ring.completed(ring.announced(Phase.REDUCE, 0, 0, 128, record(0)))
    step = ring.announced(Phase.GATHER, 0, 0, 128, record(0, 1, 2))
    assert (step.operation, step.hop, step.forward) == (Operation.STORE, 4, None)
    assert ring.completed(step) is None


@pytest.mark.parametrize(
    ("phase", "segment", "index", "nbytes", "extra", "why"),
    [
        (Phase.REDUCE, 3, 0, 128, record(0), "ring of 3"),
        (7, 0, 0, 128, record(0), "phase 7"),
        (Phase.REDUCE, 1, 0, 128, record(1), "came back"),
        (Phase.GATHER, 2, 0, 128, record(2, 0, 1), "came back"),
        (Phase.REDUCE, 0, 5, 128, b"", "no chunk 5"),
        (Phase.REDUCE, 0, 0, 127, record(0), "128 bytes, not 127"),
        (Phase.REDUCE, 0, 1, 128, b"", "before chunk 0"),
        (Phase.REDUCE, 0, 1, 128, record(0), "records on chunk 1"),
        (Phase.GATHER, 0, 0, 128, record(0, 1, 2), "before it passed here"),
        (Phase.REDUCE, 0, 0, 128, b"", "0 records"),
        (Phase.REDUCE, 0, 0, 128, record(0, 1), "more than 1 records"),
        (Phase.REDUCE, 2, 0, 128, record(2), "1 records"),
        (Phase.GATHER, 1, 0, 128, encode_records([b"forged", b"b", b"c"]), "two different records of rank 1"),
        (Phase.REDUCE, 0, 0, 128, b"\xff\xff", "announces 65535 bytes"),
        (Phase.REDUCE, 0, 0, 128, b"\x00", "middle of a length"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    ring: RingProgress, phase: int, segment: int, index: int, nbytes: int, extra: bytes, why: str
) -> None:
    with pytest.raises(ProtocolViolation, match=why):
        ring.announced(phase, segment, index, nbytes, extra)


def test_a_chunk_that_comes_twice_is_refused(ring: RingProgress) -> None:
    ring.completed(ring.announced(Phase.REDUCE, 0, 0, 128, record(0)))
    with pytest.raises(ProtocolViolation, match="came twice"):
        ring.announced(Phase.REDUCE, 0, 0, 128, record(0))


def test_records_are_known_even_if_the_size_shows_that_the_inputs_differ(ring: RingProgress) -> None:
    with pytest.raises(ProtocolViolation, match="bytes, not 64"):
        ring.announced(Phase.REDUCE, 0, 0, 64, encode_records([b"other shapes"]))
    assert ring.records[0] == b"other shapes"


def test_an_all_gather_has_no_partial_sums() -> None:
    progress = RingProgress(2, 0, Layout.slots([64, 64]), 0, b"")
    progress.begin()
    with pytest.raises(ProtocolViolation, match="only gathers"):
        progress.announced(Phase.REDUCE, 1, 0, 64, b"")


@pytest.fixture
def strided() -> RingProgress:
    """Rank 0 of 2, begun: five chunks per segment, told of in threes; all sums have passed."""
    layout = Layout.even([Group("uint8", 1, 0, 64 * 20)], 2, chunk_bytes=128)
    progress = RingProgress(2, 0, layout, 1, b"record of 0", stride=3)
    progress.begin()
    return progress


def test_final_chunks_are_told_of_by_the_stride(strided: RingProgress) -> None:
    told = []
    for index in range(5):
        step = strided.announced(Phase.REDUCE, 1, index, None, b"" if index else record(1))
        told.append(strided.completed(step))
    assert [None if one is None else (one.phase, one.chunk.index, one.extra) for one in told] == [
        None,
        None,
        (Phase.GATHER, 2, record(1, 0)),
        None,
        (Phase.GATHER, 4, b""),
    ]
    first = strided.announced(Phase.GATHER, 0, 2, None, record(0, 1))
    assert (first.first, first.chunk.index, first.opens, strided.completed(first)) == (0, 2, True, None)
    assert not strided.done
    last = strided.announced(Phase.GATHER, 0, 4, None, b"")
    assert (last.first, last.chunk.index, last.opens) == (3, 4, False)
    strided.completed(last)
    assert strided.done


@pytest.mark.parametrize(
    ("index", "extra", "why"),
    [
        (0, b"", "before chunk 2"),
        (4, b"", "before chunk 2"),
        (5, b"", "no chunk 5"),
        (2, b"", "0 records"),
        (4, record(0, 1), "records on chunk 4"),
    ],
)
def test_final_chunks_that_are_told_of_out_of_step_are_refused(
    strided: RingProgress, index: int, extra: bytes, why: str
) -> None:
    with pytest.raises(ProtocolViolation, match=why):
        strided.announced(Phase.GATHER, 0, index, None, extra)


def test_a_stride_cannot_be_final_before_all_of_it_passed_as_sums() -> None:
    layout = Layout.even([Group("uint8", 1, 0, 64 * 18)], 3, chunk_bytes=128)
    progress = RingProgress(3, 1, layout, 2, b"record of 1", stride=3)
    progress.begin()
    for index in range(2):
        progress.completed(progress.announced(Phase.REDUCE, 0, index, None, b"" if index else record(0)))
    with pytest.raises(ProtocolViolation, match="before it passed here"):
        progress.announced(Phase.GATHER, 0, 2, None, record(0, 1, 2))


@pytest.mark.parametrize(("hops", "stride"), [(2, 0), (0, 2)])
def test_a_stride_that_cannot_be_is_refused(hops: int, stride: int) -> None:
    with pytest.raises(ValueError, match="stride"):
        RingProgress(3, 0, LAYOUT, hops, b"", stride=stride)


@pytest.mark.parametrize(("world", "rank", "hops"), [(3, 3, 2), (3, 0, 1), (2, 0, 1)])
def test_a_ring_that_does_not_fit_together_is_refused(world: int, rank: int, hops: int) -> None:
    with pytest.raises(ValueError, match=r"rank|reduce_hops|segments"):
        RingProgress(world, rank, LAYOUT, hops, b"")
