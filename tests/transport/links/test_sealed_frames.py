"""Sealed frames off a stream: whole, in order and from the other end; or the link is closed, nothing of them seen."""

from __future__ import annotations

from typing import Any

import pytest
from frame_reader import Reader
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_p2p.transport.links.frames import MAX_EXTRA, Kind, checksum, encode
from lepton_p2p.transport.links.outlet import seal_frame, sealed_bytes
from lepton_p2p.transport.links.seal import SEALED_HEADER_BYTES, TAG_BYTES, Opener, Sealer

SECRET = bytes(range(32))
REFUSED = "sealed bytes that do not open: changed on the way, or not the next ones of this link"
Frame = tuple[bytes, bytes]
"""Payload, extra."""
frames = st.lists(
    st.tuples(
        st.one_of(st.binary(max_size=100), st.integers(0, 80).map(lambda n: bytes(range(256)) * n)),
        st.one_of(st.binary(max_size=100), st.integers(0, 12_000).map(lambda n: b"x" * n)),
    ),
    min_size=1,
    max_size=5,
)
cuts = st.sampled_from([61, 80, 81, 1000, 8192, 40_000])


def head(round: int, payload: bytes, extra: bytes = b"", **changes: Any) -> bytes:
    fields: dict[str, Any] = {"payload": len(payload), "payload_checksum": checksum(payload), **changes}
    return encode(Kind.CHUNK, round=round, extra=extra, **fields)


def sealed(sent: list[Frame], secret: bytes = SECRET) -> list[bytes]:
    """What goes on the wire for each frame; rounds are numbered from 0."""
    sealer = Sealer(bytearray(secret))
    return [seal_one(sealer, head(number, *frame), frame[0]) for number, frame in enumerate(sent)]


def seal_one(sealer: Sealer, first: bytes, payload: bytes = b"") -> bytes:
    into = memoryview(bytearray(sealed_bytes(first, memoryview(payload))))
    seal_frame(sealer, first, memoryview(payload), into)
    return bytes(into)


def reader(**options: Any) -> Reader:
    return Reader(opener=Opener(bytearray(SECRET)), **options)


def expected(sent: list[Frame]) -> list[tuple[int, bytes, bytes]]:
    return [(number, extra, payload) for number, (payload, extra) in enumerate(sent)]


def refused(one: Reader) -> None:
    """The link is closed, for the reason that counts."""
    assert one.wire.aborted
    one.protocol.connection_lost(None)
    assert one.lost == [f"bad frame: {REFUSED}"]


@settings(deadline=None, max_examples=50)
@given(frames, cuts)
async def test_frames_arrive_whole_however_the_stream_is_cut(sent: list[Frame], most: int) -> None:
    one, stream = reader(), b"".join(sealed(sent))
    assert one.feed(stream, most) == b""
    assert one.inbox.got == expected(sent)
    assert one.protocol.bytes_received == len(stream)


async def test_frames_arrive_whole_byte_by_byte() -> None:
    one, sent = reader(), [(b"a" * 100, b"b" * 70), (b"", b""), (b"c", b"")]
    one.feed(b"".join(sealed(sent)), 1)
    assert one.inbox.got == expected(sent)


async def test_a_frame_of_the_largest_size_arrives() -> None:
    one, sent = reader(), [(bytes(range(256)) * 4096, bytes(range(256)) * (MAX_EXTRA // 256)), (b"next", b"")]
    one.feed(b"".join(sealed(sent)), 100_000)
    assert one.inbox.got == expected(sent)


@settings(deadline=None, max_examples=50)
@given(frames, cuts, st.data())
async def test_frames_that_are_thrown_away_or_held_do_not_disturb_the_others(
    sent: list[Frame], most: int, data: st.DataObject
) -> None:
    one = reader()
    one.inbox.drain = data.draw(st.sets(st.integers(0, len(sent) - 1)))
    one.inbox.hold = {len(sent) // 2}
    rest = one.feed(b"".join(sealed(sent)), most)
    assert one.wire.paused
    one.inbox.hold = set()
    one.protocol.resume()
    one.feed(rest, most)
    kept = [frame for frame in expected(sent) if frame[0] not in one.inbox.drain]
    assert one.inbox.got == kept


@settings(deadline=None, max_examples=100)
@given(frames, cuts, st.data())
async def test_a_bit_flipped_anywhere_closes_the_link_before_its_frame_is_seen(
    sent: list[Frame], most: int, data: st.DataObject
) -> None:
    one, wire = reader(), sealed(sent)
    bad = data.draw(st.integers(0, len(sent) - 1))
    changed = bytearray(wire[bad])
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    wire[bad] = bytes(changed)
    one.feed(b"".join(wire), most)
    refused(one)
    assert one.inbox.got == expected(sent)[:bad]
    assert not any(one.inbox.memory) or one.inbox.memory == sent[bad - 1][0], "nothing of it is left in its destination"


@settings(deadline=None, max_examples=50)
@given(frames.filter(lambda sent: len(sent) > 1), st.data())
async def test_frames_replayed_left_out_or_swapped_close_the_link(sent: list[Frame], data: st.DataObject) -> None:
    wire = sealed(sent)
    order = data.draw(st.lists(st.integers(0, len(sent) - 1), min_size=len(sent) + 1, max_size=len(sent) + 3))
    good = next(place for place, number in enumerate([*order, -1]) if place != number)
    one = reader()
    one.feed(b"".join(wire[number] for number in order))
    refused(one)
    assert one.inbox.got == expected(sent)[:good]


@settings(deadline=None, max_examples=50)
@given(frames)
async def test_frames_of_another_link_or_of_the_other_direction_close_the_link(sent: list[Frame]) -> None:
    one = reader()
    one.feed(b"".join(sealed(sent, secret=b"other secret of thirty-two bytes")))
    refused(one)
    assert one.inbox.got == []


@settings(deadline=None, max_examples=50)
@given(frames, st.data())
async def test_what_is_cut_off_in_the_middle_is_never_seen(sent: list[Frame], data: st.DataObject) -> None:
    one, wire = reader(), sealed(sent)
    stream = b"".join(wire)
    length = data.draw(st.integers(0, len(stream) - 1))
    one.feed(stream[:length])
    whole = 0
    while sum(map(len, wire[: whole + 1])) <= length:
        whole += 1
    assert one.inbox.got == expected(sent)[:whole]


@settings(deadline=None, max_examples=100)
@given(st.binary(min_size=SEALED_HEADER_BYTES, max_size=3000))
async def test_arbitrary_bytes_close_the_link(noise: bytes) -> None:
    one = reader()
    one.feed(noise)
    refused(one)


@pytest.mark.parametrize("piece", ["header", "extra", "payload"])
async def test_a_piece_taken_from_another_frame_of_the_same_link_closes_it(piece: str) -> None:
    """Header, extra and payload of two frames of equal shape are not exchanged for each other."""
    one, sent = reader(), [(b"p" * 500, b"e" * 128), (b"q" * 500, b"f" * 128)]
    first, second = sealed(sent)
    ends = {"header": (0, 80), "extra": (80, 80 + 128 + 16), "payload": (80 + 128 + 16, len(first))}
    start, end = ends[piece]
    one.feed(first[:start] + second[start:end] + first[end:])
    refused(one)
    assert one.inbox.got == []


async def test_a_payload_is_not_written_to_its_destination_before_all_of_it_is_there() -> None:
    one, payload = reader(), b"\xff" * 50_000
    (stream,) = sealed([(payload, b"")])
    one.feed(stream[:-1], 10_000)
    assert one.inbox.memory == bytes(50_000)
    one.feed(stream[-1:])
    assert one.inbox.memory == payload


async def test_after_divert_nothing_is_written_to_the_destination_and_the_stream_goes_on() -> None:
    one, sent = reader(), [(b"\xff" * 50_000, b""), (b"next", b"")]
    stream = b"".join(sealed(sent))
    one.feed(stream[:10_000])
    memory = one.inbox.memory
    one.protocol.divert()
    one.feed(stream[10_000:])
    assert memory == bytes(50_000)
    assert one.inbox.got == expected(sent)[1:]


async def test_a_payload_that_nobody_wants_must_open_all_the_same() -> None:
    one, sent = reader(), [(b"payload", b"")]
    one.inbox.drain = {0}
    (stream,) = sealed(sent)
    one.feed(stream[:-1] + bytes([stream[-1] ^ 1]))
    refused(one)


async def test_large_payloads_go_into_one_buffer_that_is_used_again() -> None:
    one, sealer = reader(), Sealer(bytearray(SECRET))
    buffers = []
    for number in range(3):
        payload = bytes([number]) * 100_000
        stream = seal_one(sealer, head(number, payload), payload)
        one.feed(stream[: SEALED_HEADER_BYTES + 10])
        buffers.append(one.protocol.get_buffer(-1).obj)
        one.feed(stream[SEALED_HEADER_BYTES + 10 :])
    assert buffers[0] is buffers[1] is buffers[2]
    assert len(buffers[0]) == 100_000 + TAG_BYTES
    assert len(one.inbox.got) == 3


async def test_a_size_above_the_bound_closes_the_link_before_anything_is_allocated() -> None:
    """The remote is who it should be, and wrong all the same."""
    one = reader(max_payload=1000)
    one.feed(seal_one(Sealer(bytearray(SECRET)), head(0, b"x" * 1001), b"x" * 1001))
    one.protocol.connection_lost(None)
    assert "1001 bytes of payload announced, 1000 at most" in one.lost[0]
    assert not one.inbox.memory
    assert not one.protocol._sealed


async def test_what_is_sealed_well_and_has_another_checksum_is_reported_as_corrupt() -> None:
    """The checksum goes from end to end of the ring, the seal from one peer to the next."""
    one, sealer = reader(), Sealer(bytearray(SECRET))
    one.feed(seal_one(sealer, head(0, b"wrong", payload_checksum=1), b"wrong"))
    one.feed(seal_one(sealer, head(1, b"right"), b"right"))
    assert one.inbox.corrupted == [0]
    assert [got[0] for got in one.inbox.got] == [1]


async def test_nothing_of_a_frame_is_to_be_read_on_the_wire() -> None:
    payload, extra = b"weights " * 100, b"records " * 10
    (stream,) = sealed([(payload, extra)])
    (again,) = sealed([(payload, extra)], secret=b"other secret of thirty-two bytes")
    for part in (b"weights ", b"records ", head(0, payload, extra)[:8]):
        assert part not in stream
    assert len(stream) == len(again)
    assert stream != again
