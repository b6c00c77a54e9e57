"""Records: what each member says in a round, as bytes that come from a network."""

from __future__ import annotations

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_p2p.identity import PeerId
from lepton_p2p.rounds.records import MAX_NOTE, MAX_RECORD, Flag, Record

hashes = st.integers(0, 2**64 - 1)
records = st.builds(
    Record,
    peer=st.integers(0, 2**128 - 1).map(lambda n: PeerId(f"{n:032x}")),
    weight=st.floats(0, allow_infinity=False, allow_nan=False),
    schema=hashes,
    previous=hashes,
    state=hashes,
    flags=st.sampled_from((Flag.NONE, Flag.NON_FINITE)),
    note=st.binary(max_size=MAX_NOTE),
)


@given(records)
def test_what_was_encoded_is_decoded(record: Record) -> None:
    data = record.encode()
    assert len(data) <= MAX_RECORD
    assert Record.decode(data) == record


@given(st.binary(max_size=200))
def test_any_other_bytes_are_refused_or_are_a_record(data: bytes) -> None:
    try:
        record = Record.decode(data)
    except ValueError:
        return
    assert record.weight >= 0
    assert math.isfinite(record.weight)


def test_a_note_has_a_limit() -> None:
    with pytest.raises(ValueError, match="at most 1024 bytes"):
        Record(PeerId("a" * 32), 1.0, 0, note=b"x" * 1025).encode()


@pytest.mark.parametrize("weight", [-1.0, math.inf, math.nan])
def test_a_weight_that_is_no_weight_is_refused(weight: float) -> None:
    data = bytearray(Record(PeerId("a" * 32), 1.0, 0).encode())
    struct.pack_into("!d", data, 16, weight)
    with pytest.raises(ValueError, match="a weight is finite"):
        Record.decode(bytes(data))


def test_a_note_of_another_length_than_announced_is_refused() -> None:
    with pytest.raises(ValueError, match="announces a note"):
        Record.decode(Record(PeerId("a" * 32), 1.0, 0, note=b"abc").encode() + b"d")
