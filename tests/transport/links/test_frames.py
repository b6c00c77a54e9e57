"""Frames: what is encoded is decoded, anything else is refused before a byte is allocated for it."""

from __future__ import annotations

import struct

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from lepton_p2p.transport.links.frames import (
    HEADER_BYTES,
    MAX_EXTRA,
    MAX_PAYLOAD,
    FrameError,
    Kind,
    checksum,
    decode,
    encode,
    head_bytes,
    short_checksum,
)

u64 = st.integers(0, 2**64 - 1)
u32 = st.integers(0, 2**32 - 1)


@given(
    st.sampled_from(Kind), u64, u64, u64, u32, u32, st.integers(0, 15), st.binary(max_size=200),
    st.integers(0, MAX_PAYLOAD), u64,
)  # fmt: skip
def test_a_frame_survives_the_wire(
    kind: Kind, epoch: int, tag: int, round: int, segment: int, chunk: int, phase: int, extra: bytes, payload: int,
    digest: int,
) -> None:  # fmt: skip
    payload = 0 if kind is Kind.PLACED else payload
    head = encode(
        kind, epoch=epoch, tag=tag, round=round, segment=segment, chunk=chunk, phase=phase, extra=extra,
        payload=payload, payload_checksum=digest,
    )  # fmt: skip
    header = decode(memoryview(head), lent=lambda nbytes: memoryview(bytes(nbytes)))
    assert (header.lent is not None) == (kind is Kind.LENT)
    assert (header.kind, header.epoch, header.tag, header.round) == (kind, epoch, tag, round)
    assert (header.segment, header.chunk, header.phase) == (segment, chunk, phase)
    assert (header.extra, header.payload, header.checksum) == (len(extra), payload, digest)
    assert head_bytes(header) == len(head)
    assert len(head) % 64 == 0
    assert head[HEADER_BYTES : HEADER_BYTES + header.extra] == extra
    assert not extra or header.extra_checksum == short_checksum(extra)


def test_the_header_fits_its_bound() -> None:
    assert HEADER_BYTES <= 96


@given(st.integers(0, HEADER_BYTES * 8 - 1))
def test_one_wrong_bit_in_a_header_is_found(bit: int) -> None:
    head = bytearray(encode(Kind.CHUNK, epoch=3, tag=7, round=9, payload=100))
    head[bit // 8] ^= 1 << bit % 8
    with pytest.raises(FrameError):
        decode(memoryview(head))


@given(st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES))
def test_random_bytes_are_no_frame(data: bytes) -> None:
    with pytest.raises(FrameError):
        decode(memoryview(data))


def forged(**changes: int) -> memoryview:
    """A header with values that ``encode`` would not write, and the right checksum for them."""
    values = {"version": 1, "kind": Kind.CHUNK, "extra": 0, "payload": 0, **changes}
    body = struct.pack(
        "!2sBBQQQIIIIIQ", b"LP", values["version"], values["kind"], 0, 0, 0, 0, 0, values["extra"], values["payload"],
        0, 0,
    )  # fmt: skip
    return memoryview(body + struct.pack("!Q", xxhash.xxh3_64_intdigest(body)))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"payload": MAX_PAYLOAD + 1}, "1048577 bytes of payload announced, 1048576 at most"),
        ({"payload": 2**32 - 1}, "payload announced"),
        ({"extra": MAX_EXTRA + 1}, "bytes of records announced"),
        ({"version": 2}, "version 2, this side speaks 1"),
        ({"kind": 15}, "unknown kind 15"),
        ({"kind": 0}, "unknown kind 0"),
    ],
)
def test_what_is_beyond_the_bounds_is_refused_by_name(changes: dict[str, int], why: str) -> None:
    with pytest.raises(FrameError, match=why):
        decode(forged(**changes))
    decode(forged())


def test_the_bound_on_payloads_is_the_links_own() -> None:
    head = memoryview(encode(Kind.CHUNK, payload=1000))
    assert decode(head, max_payload=1000).payload == 1000
    with pytest.raises(FrameError, match="999 at most"):
        decode(head, max_payload=999)


def test_records_beyond_the_bound_are_not_sent() -> None:
    with pytest.raises(ValueError, match="at most"):
        encode(Kind.CHUNK, extra=bytes(MAX_EXTRA + 1))


def test_the_checksum_is_xxh3_64() -> None:
    assert checksum(b"") == 0x2D06800538D394C2
    assert short_checksum(b"") == 0x38D394C2
