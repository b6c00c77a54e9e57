"""Frames off a stream that is cut anywhere: each to its destination, the bytes in the right place, nothing twice."""

from __future__ import annotations

from typing import Any

import pytest
from frame_reader import Reader
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_p2p.transport.links.frames import _BODY, _CHECK, HEADER_BYTES, MAX_EXTRA, Kind, checksum, encode
from lepton_p2p.transport.links.purpose import Purpose


def frame(round: int, payload: bytes = b"", extra: bytes = b"", **changes: Any) -> bytes:
    fields: dict[str, Any] = {"payload": len(payload), "payload_checksum": checksum(payload), **changes}
    return encode(Kind.CHUNK, round=round, extra=extra, **fields) + payload


frames = st.lists(
    st.tuples(
        st.one_of(st.binary(max_size=100), st.integers(0, 80).map(lambda n: bytes(range(256)) * n)),
        st.one_of(st.binary(max_size=100), st.integers(0, 12_000).map(lambda n: b"x" * n)),
    ),
    min_size=1,
    max_size=5,
)
cuts = st.sampled_from([61, 64, 65, 1000, 8192, 40_000])


@settings(deadline=None, max_examples=50)
@given(frames, cuts)
async def test_frames_arrive_whole_however_the_stream_is_cut(sent: list[tuple[bytes, bytes]], most: int) -> None:
    reader = Reader()
    stream = b"".join(frame(number, payload, extra) for number, (payload, extra) in enumerate(sent))
    assert reader.feed(stream, most) == b""
    assert reader.inbox.got == [(number, extra, payload) for number, (payload, extra) in enumerate(sent)]
    assert reader.protocol.bytes_received == len(stream)
    assert reader.protocol.frames_received == len(sent)


@settings(deadline=None, max_examples=50)
@given(frames, st.data())
async def test_frames_that_are_thrown_away_do_not_disturb_the_others(
    sent: list[tuple[bytes, bytes]], data: st.DataObject
) -> None:
    reader = Reader()
    reader.inbox.drain = data.draw(st.sets(st.integers(0, len(sent) - 1)))
    stream = b"".join(frame(number, payload, extra) for number, (payload, extra) in enumerate(sent))
    reader.feed(stream, data.draw(cuts))
    kept = [number for number in range(len(sent)) if number not in reader.inbox.drain]
    assert [got[0] for got in reader.inbox.got] == kept


@settings(deadline=None, max_examples=50)
@given(frames, cuts)
async def test_a_held_frame_stops_the_reading_and_comes_when_it_is_resumed(
    sent: list[tuple[bytes, bytes]], most: int
) -> None:
    reader = Reader()
    held = len(sent) // 2
    reader.inbox.hold = {held}
    stream = b"".join(frame(number, payload, extra) for number, (payload, extra) in enumerate(sent))
    rest = reader.feed(stream, most)
    assert reader.wire.paused
    assert [got[0] for got in reader.inbox.got] == list(range(held))
    reader.protocol.resume()
    assert reader.wire.paused or reader.protocol.held, "still nobody wants it"
    assert len(reader.inbox.got) == held
    reader.inbox.hold = set()
    reader.protocol.resume()
    assert not reader.wire.paused
    reader.feed(rest, most)
    assert [got[2] for got in reader.inbox.got] == [payload for payload, _ in sent]


async def test_frames_arrive_whole_byte_by_byte() -> None:
    reader = Reader()
    reader.feed(frame(1, b"a" * 100, b"b" * 70) + frame(2) + frame(3, b"c"), 1)
    assert reader.inbox.got == [(1, b"b" * 70, b"a" * 100), (2, b"", b""), (3, b"", b"c")]


async def test_a_large_payload_is_read_into_its_destination_and_not_staged() -> None:
    reader = Reader()
    payload = bytes(range(256)) * 4096
    stream = frame(1, payload)
    rest = reader.feed(stream[: HEADER_BYTES + 8000])
    buffer = reader.protocol.get_buffer(-1)
    assert not rest
    assert buffer.obj is reader.inbox.memory
    assert len(buffer) == len(payload) - 8000
    reader.feed(stream[HEADER_BYTES + 8000 :])
    assert reader.inbox.got == [(1, b"", payload)]


async def test_after_divert_nothing_is_written_to_the_destination() -> None:
    reader = Reader()
    payload = b"\xff" * 50_000
    stream = frame(1, payload)
    reader.feed(stream[:10_000])
    before = bytes(reader.inbox.memory)
    reader.protocol.divert()
    reader.feed(stream[10_000:] + frame(2, b"next"))
    assert bytes(before[:9_900]) != bytes(9_900)
    assert reader.inbox.got == [(2, b"", b"next")]


async def test_a_wrong_payload_is_reported_and_the_link_goes_on() -> None:
    reader = Reader()
    reader.feed(frame(1, b"what was sent", payload_checksum=checksum(b"something else")) + frame(2, b"fine"))
    assert reader.inbox.corrupted == [1]
    assert reader.inbox.got == [(2, b"", b"fine")]


async def test_heartbeats_are_nobodys_business_but_show_that_the_remote_lives() -> None:
    reader = Reader()
    reader.protocol.last_received = -1.0
    reader.feed(encode(Kind.HEARTBEAT) * 3 + frame(1, b"data"))
    assert reader.inbox.got == [(1, b"", b"data")]
    assert reader.protocol.last_received > 0


async def test_heartbeats_without_end_close_the_link() -> None:
    reader = Reader()
    reader.feed(encode(Kind.HEARTBEAT) * 900)
    assert not reader.wire.aborted
    reader.feed(encode(Kind.HEARTBEAT) * 900)
    reader.protocol.connection_lost(None)
    assert reader.lost == ["bad frame: more heartbeats than anybody needs"]


@pytest.mark.parametrize("purpose", Purpose)
async def test_records_above_the_bound_of_their_link_close_it_before_anything_is_allocated(purpose: Purpose) -> None:
    reader = Reader(max_extra=purpose.max_extra)
    reader.feed(frame(1, b"", bytes(purpose.max_extra)))
    assert len(reader.inbox.got) == 1
    staged = len(reader.protocol._stage)
    header = bytearray(_BODY.pack(b"LP", 1, Kind.CHUNK, 1, 1, 1, 0, 0, purpose.max_extra + 1, 0, 0, 0))
    reader.feed(bytes(header + _CHECK.pack(checksum(header))))
    reader.protocol.connection_lost(None)
    assert f"{purpose.max_extra} at most are allowed" in reader.lost[0]
    assert len(reader.protocol._stage) == staged


async def test_what_is_no_frame_closes_the_link_with_the_reason() -> None:
    reader = Reader()
    reader.feed(frame(1, b"fine") + b"GET / HTTP/1.1\r\n" * 10)
    assert reader.wire.aborted
    reader.protocol.connection_lost(None)
    assert reader.lost == ["bad frame: not a frame (it starts with b'GE')"]
    assert len(reader.inbox.got) == 1


async def test_a_payload_above_the_links_bound_closes_it_before_anything_is_allocated() -> None:
    reader = Reader(max_payload=1000)
    reader.feed(encode(Kind.CHUNK, payload=1001) + bytes(1001))
    assert reader.wire.aborted
    reader.protocol.connection_lost(None)
    assert "1001 bytes of payload announced, 1000 at most" in reader.lost[0]
    assert not reader.inbox.memory


async def test_records_with_a_wrong_checksum_close_the_link() -> None:
    reader = Reader()
    stream = bytearray(frame(1, b"", b"records"))
    stream[HEADER_BYTES] ^= 1
    reader.feed(bytes(stream))
    reader.protocol.connection_lost(None)
    assert reader.lost == ["bad frame: records with a wrong checksum"]


async def test_records_of_the_largest_size_arrive() -> None:
    reader = Reader()
    extra = bytes(range(256)) * (MAX_EXTRA // 256)
    reader.feed(frame(1, b"payload", extra), 10_000)
    assert reader.inbox.got == [(1, extra, b"payload")]


async def test_the_end_of_the_stream_is_told_once_with_its_cause() -> None:
    reader = Reader()
    assert not reader.protocol.eof_received()
    reader.protocol.connection_lost(None)
    assert reader.lost == ["the remote closed the connection"]
    reader = Reader()
    reader.protocol.connection_lost(ConnectionResetError(104, "reset"))
    assert "reset" in reader.lost[0]
