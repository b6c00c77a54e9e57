"""Codecs of what training puts into notes and headers: what is written is read, nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_p2p.gossip.wire import MAX_COUNTS, Counter, Header, Kind
from lepton_p2p.identity import PeerId
from lepton_p2p.replication.notes import MAX_RANGES, Note, NoteFlag
from lepton_p2p.replication.ranges import Range
from lepton_p2p.rounds.records import MAX_NOTE

claims = st.lists(st.tuples(st.integers(0, 2**34), st.integers(1, 2**34)), max_size=MAX_RANGES).map(
    lambda items: tuple(Range(start, start + size) for start, size in items)
)
losses = st.floats(allow_nan=False, allow_infinity=False)
works, quorums = st.integers(0, 2**64 - 1), st.integers(0, 0xFFFF)
old_notes = st.builds(
    Note,
    st.sampled_from([NoteFlag(value) for value in range(4)]),
    claims,
    losses,
    st.integers(0, 255),
    work=works,
    quorum=quorums,
)
fresh_notes = st.builds(
    Note,
    st.sampled_from([NoteFlag(value) for value in range(4, 8)]),
    claims,
    losses,
    st.integers(0, 255),
    st.none() | st.integers(0, 2**64 - 2),
    st.integers(0, 2**64 - 1),
    works,
    quorums,
)
notes = old_notes | fresh_notes
peers = st.binary(min_size=16, max_size=16).map(lambda data: PeerId(data.hex()))
headers = st.builds(
    Header,
    st.sampled_from(Kind),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.floats(0, 1e9),
    st.dictionaries(peers, st.integers(0, 2**64 - 1), max_size=20),
    st.integers(0, 2**64 - 1),
)


@given(notes)
def test_a_note_is_read_as_it_was_written_and_fits(note: Note) -> None:
    data = note.encode()
    assert len(data) <= MAX_NOTE
    assert Note.decode(data) == note


@given(notes, st.data())
def test_a_note_that_was_cut_or_lengthened_is_refused(note: Note, data: st.DataObject) -> None:
    whole = note.encode()
    with pytest.raises(ValueError, match=r"note|number"):
        Note.decode(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(ValueError, match=r"note|number"):
        Note.decode(whole + b"\x00")


@given(st.binary(max_size=1100))
def test_random_bytes_are_a_note_or_nothing(data: bytes) -> None:
    note = Note.read(data)
    assert note is None or len(note.claim) <= MAX_RANGES


def test_a_loss_that_is_not_finite_does_not_travel_further() -> None:
    assert Note.decode(Note(NoteFlag.READY, (), float("nan")).encode()).loss_sum == 0.0


def test_a_claim_has_a_bound() -> None:
    with pytest.raises(ValueError, match="at most 64 ranges"):
        Note(NoteFlag.READY, tuple(Range(i * 2, i * 2 + 1) for i in range(65))).encode()


@given(headers)
def test_a_header_is_read_as_it_was_written(header: Header) -> None:
    assert Header.decode(header.encode()) == header


@given(st.binary(max_size=200))
def test_random_bytes_are_no_header_or_a_valid_one(data: bytes) -> None:
    try:
        header = Header.decode(data)
    except ValueError:
        return
    assert header.weight >= 0


def test_a_header_is_bounded_however_many_peers_have_been_seen() -> None:
    counts = {PeerId(f"{index:032x}"): index for index in range(2000)}
    kept = Header.decode(Header(Kind.COUNTS, counts=counts).encode()).counts
    assert len(kept) == MAX_COUNTS
    assert min(kept.values()) == 2000 - MAX_COUNTS


@given(st.lists(st.dictionaries(peers, st.integers(0, 100), max_size=4), max_size=6), st.randoms())
def test_counters_merge_to_the_same_in_any_order(parts: list[dict[PeerId, int]], order: object) -> None:
    me = PeerId("f" * 32)
    first, second = Counter(me), Counter(me)
    for part in parts:
        first.merge(part, limit=50)
    for part in [*reversed(parts), *parts]:
        second.merge(part, limit=50)
    assert {k: v for k, v in first.snapshot().items() if v} == {k: v for k, v in second.snapshot().items() if v}
    assert max(first.snapshot().values(), default=0) <= 50


def test_nobody_else_says_how_much_this_peer_has_used() -> None:
    me = PeerId("f" * 32)
    counter = Counter(me)
    counter.add(3)
    counter.merge({me: 90}, limit=100)
    assert counter.total == 3
