"""The butterfly without sockets: any sizes, any interleaving of the links, the same result everywhere."""

from __future__ import annotations

import contextlib
import random
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_p2p.rounds.butterfly import ButterflyProgress, Leg, Parcel
from lepton_p2p.rounds.layout import Group, Layout
from lepton_p2p.rounds.ring import Phase, ProtocolViolation, RingProgress, WrongWay, encode_records


class Member:
    """One rank with buffers of bytes; what it makes of a segment is the sum of all contributions modulo 256."""

    def __init__(self, world: int, rank: int, layout: Layout, source: bytes, judgement: frozenset[int]) -> None:
        self.progress = ButterflyProgress(world, rank, layout, b"record of %d" % rank)
        self.source, self.judgement = source, judgement
        self.seen: dict[tuple[int, int], bytes] = {}
        """Contributions to the own segment, by sender and chunk."""
        self.results: dict[tuple[int, int], bytes] = {}
        """By segment and chunk."""
        self.inboxes: dict[int, deque[tuple[Parcel, bytes]]] = {other: deque() for other in range(world)}
        self.sent = 0
        self.begun = self.made = False

    def begin(self) -> list[tuple[Parcel, bytes]]:
        self.begun = True
        out = [self._count(one, self.source[one.chunk.start : one.chunk.stop]) for one in self.progress.begin()]
        return out + self._make()

    def receive(self, sender: int) -> list[tuple[Parcel, bytes]]:
        parcel, payload = self.inboxes[sender].popleft()
        chunk = parcel.chunk
        arrival = self.progress.announced(sender, parcel.leg, chunk.segment, chunk.index, len(payload), parcel.extra)
        assert (arrival.sender, arrival.chunk, arrival.opens) == (sender, chunk, chunk.index == 0)
        if arrival.leg is Leg.CONTRIBUTION:
            self.seen[sender, chunk.index] = payload
        else:
            self.results[chunk.segment, chunk.index] = payload
        self.progress.completed(arrival)
        return self._make()

    def _make(self) -> list[tuple[Parcel, bytes]]:
        progress = self.progress
        if not progress.gathered or self.made:
            return []
        self.made = True
        for chunk in progress.layout.segments[progress.rank]:
            self.seen[progress.rank, chunk.index] = self.source[chunk.start : chunk.stop]
            columns = zip(*(self.seen[rank, chunk.index] for rank in range(progress.world)), strict=True)
            self.results[progress.rank, chunk.index] = bytes(sum(column) % 256 for column in columns)
        return [
            self._count(one, self.results[progress.rank, one.chunk.index])
            for one in progress.aggregated(self.judgement)
        ]

    def _count(self, parcel: Parcel, payload: bytes) -> tuple[Parcel, bytes]:
        self.sent += parcel.chunk.nbytes
        return parcel, payload


def run(
    layout: Layout, sources: list[bytes], scheduler: random.Random, judgements: dict[int, frozenset[int]]
) -> list[Member]:
    """Deliver in any order that keeps each link first in, first out."""
    world = len(sources)
    members = [
        Member(world, rank, layout, source, judgements.get(rank, frozenset())) for rank, source in enumerate(sources)
    ]
    while True:
        choices = [(rank, -1) for rank in range(world) if not members[rank].begun]
        choices += [(m.progress.rank, sender) for m in members if m.begun for sender, box in m.inboxes.items() if box]
        if not choices:
            return members
        rank, sender = scheduler.choice(choices)
        out = members[rank].begin() if sender < 0 else members[rank].receive(sender)
        for parcel, payload in out:
            members[parcel.to].inboxes[rank].append((parcel, payload))


@settings(deadline=None)
@given(
    world=st.integers(1, 6),
    size=st.one_of(st.integers(0, 40), st.integers(0, 3000)),
    seed=st.integers(0, 2**32),
    judged=st.dictionaries(st.integers(0, 5), st.frozensets(st.integers(0, 5)), max_size=3),
)
def test_everybody_gets_what_the_owners_made_of_all_contributions(
    world: int, size: int, seed: int, judged: dict[int, frozenset[int]]
) -> None:
    layout = Layout.even([Group("uint8", 1, 0, size)], world, chunk_bytes=128)
    scheduler = random.Random(seed)
    sources = [scheduler.randbytes(size) for _ in range(world)]
    judgements = {
        rank: frozenset(one for one in ranks if one < world) for rank, ranks in judged.items() if rank < world
    }
    members = run(layout, sources, scheduler, judgements)
    total = bytes(sum(column) % 256 for column in zip(*sources, strict=True))
    expected = {(chunk.segment, chunk.index): total[chunk.start : chunk.stop] for chunk in layout.chunks()}
    refused = frozenset().union(*judgements.values())
    for member in members:
        assert member.progress.done
        assert member.results == expected
        assert member.progress.ordered_records() == tuple(b"record of %d" % rank for rank in range(world))
        assert member.progress.refused() == refused
        assert not any(member.progress.owes(other) for other in range(world) if other != member.progress.rank)
        own = sum(chunk.nbytes for chunk in layout.segments[member.progress.rank])
        assert member.sent == (size - own) + (world - 1) * own, "the rest once, the own segment to each of the others"
    assert sum(member.sent for member in members) == 2 * (world - 1) * size, "as many bytes as on a ring"


def test_nobody_has_a_result_before_everybody_has_begun() -> None:
    layout = Layout.even([Group("uint8", 1, 0, 1000)], 3, chunk_bytes=128)
    members = [Member(3, rank, layout, bytes(1000), frozenset()) for rank in range(3)]
    pending = deque((rank, parcel) for rank in (0, 1) for parcel in members[rank].begin())
    while pending:
        rank, (parcel, payload) = pending.popleft()
        if parcel.to != 2:
            members[parcel.to].inboxes[rank].append((parcel, payload))
            pending.extend((parcel.to, more) for more in members[parcel.to].receive(rank))
    assert not any(member.made or member.progress.done for member in members)


def progress(rank: int = 0, world: int = 3) -> ButterflyProgress:
    return ButterflyProgress(world, rank, Layout.even([Group("uint8", 1, 0, 768)], world, chunk_bytes=128), b"own")


def records(*which: bytes) -> bytes:
    return encode_records(which)


MASK = b"\0"


@pytest.mark.parametrize(
    ("sender", "leg", "segment", "index", "nbytes", "extra", "told"),
    [
        (1, Leg.CONTRIBUTION, 1, 0, 128, records(b"r"), "a contribution of segment 1, which is not that of rank 0"),
        (1, Leg.RESULT, 2, 0, 128, records(b"own", b"r", b"s", MASK), "a result of segment 2, which is not that of"),
        (1, Leg.CONTRIBUTION, 0, 1, 128, b"", "chunk 1 of segment 0 came before chunk 0"),
        (1, Leg.CONTRIBUTION, 0, 1, 128, records(b"r"), "records on chunk 1"),
        (1, Leg.CONTRIBUTION, 0, 2, 128, b"", "segment 0 has no chunk 2"),
        (1, Leg.CONTRIBUTION, 0, 0, 127, records(b"r"), "has 128 bytes, not 127"),
        (1, Leg.CONTRIBUTION, 0, 0, 128, b"", "0 records with a contribution where 1 belong"),
        (1, Leg.CONTRIBUTION, 0, 0, 128, records(b"r", b"s"), "more than 1 records"),
        (1, Leg.CONTRIBUTION, 0, 0, 128, b"\xff\xff", "announces 65535 bytes"),
        (1, Leg.RESULT, 1, 0, 128, records(b"own", b"r", b"s"), "3 records with a result where 4 belong"),
        (1, Leg.RESULT, 1, 0, 128, records(b"x", b"r", b"s", MASK), "two different records of rank 0"),
        (1, Leg.RESULT, 1, 0, 128, records(b"own", b"r", b"s", b""), "a judgement of 0 bytes on 3 members"),
        (1, Leg.RESULT, 1, 0, 128, records(b"own", b"r", b"s", b"\x08"), "a judgement of 1 bytes on 3 members"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    sender: int, leg: int, segment: int, index: int, nbytes: int, extra: bytes, told: str
) -> None:
    with pytest.raises(ProtocolViolation, match=told):
        progress().announced(sender, leg, segment, index, nbytes, extra)


def test_one_that_tells_two_members_different_things_of_itself_is_found_out() -> None:
    member = progress()
    member.announced(1, Leg.CONTRIBUTION, 0, 0, 128, records(b"weight 1"))
    with pytest.raises(ProtocolViolation, match="two different records of rank 1"):
        member.announced(2, Leg.RESULT, 2, 0, 128, records(b"own", b"weight 2", b"s", MASK))


def test_records_are_taken_in_before_sizes_are_compared() -> None:
    member = progress()
    with pytest.raises(ProtocolViolation, match="bytes"):
        member.announced(1, Leg.CONTRIBUTION, 0, 0, 64, records(b"of another shape"))
    assert member.records[1] == b"of another shape"


def test_a_chunk_that_came_already_is_refused() -> None:
    member = progress()
    member.completed(member.announced(1, Leg.CONTRIBUTION, 0, 0, 128, records(b"r")))
    with pytest.raises(ProtocolViolation, match="twice"):
        member.announced(1, Leg.CONTRIBUTION, 0, 0, 128, records(b"r"))


@pytest.mark.parametrize("phase", list(Phase))
def test_a_chunk_of_a_ring_says_that_its_sender_aggregates_in_another_way(phase: Phase) -> None:
    with pytest.raises(WrongWay, match="tensors or operation differ"):
        progress().announced(1, phase, 0, 0, 128, records(b"r"))


@pytest.mark.parametrize("leg", list(Leg))
def test_so_does_one_of_a_butterfly_on_a_ring(leg: Leg) -> None:
    layout = Layout.even([Group("uint8", 1, 0, 768)], 3, chunk_bytes=128)
    with pytest.raises(WrongWay, match="tensors or operation differ"):
        RingProgress(3, 0, layout, 2, b"own").announced(leg, 0, 0, 128, records(b"r"))


def test_a_segment_is_aggregated_once_and_not_too_early() -> None:
    member = progress()
    with pytest.raises(RuntimeError):
        member.aggregated(())
    alone = ButterflyProgress(1, 0, Layout.even([], 1), b"own")
    assert alone.gathered
    assert not alone.done
    assert alone.begin() == alone.aggregated(()) == []
    assert alone.done
    with pytest.raises(RuntimeError):
        alone.aggregated(())


@given(sender=st.integers(1, 2), leg=st.integers(0, 15), segment=st.integers(0, 2**32 - 1), extra=st.binary())
def test_whatever_arrives_is_taken_or_refused(sender: int, leg: int, segment: int, extra: bytes) -> None:
    with contextlib.suppress(ProtocolViolation, WrongWay):
        progress().announced(sender, leg, segment, 0, 128, extra)


@pytest.mark.parametrize(("world", "rank", "segments"), [(3, 3, 3), (3, -1, 3), (3, 0, 2)])
def test_who_is_not_in_it_has_no_part(world: int, rank: int, segments: int) -> None:
    with pytest.raises(ValueError, match=r"world of 3"):
        ButterflyProgress(world, rank, Layout.even([], segments), b"")
