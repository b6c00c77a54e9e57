"""Frames whose payload lies on the board: no byte follows them, and nobody compares a checksum of nothing."""

from __future__ import annotations

import pytest
from fake_wire import Wire

from lepton_p2p.transport.links.frames import FrameError, Header, Kind, decode, encode
from lepton_p2p.transport.links.protocol import FrameProtocol, Verdict


class Inbox:
    """Wants what comes, or not; says what it saw."""

    def __init__(self) -> None:
        self.wanted: memoryview | Verdict = memoryview(bytearray(64))
        self.got: list[tuple[int, int]] = []

    def admit(self, header: Header, extra: bytes) -> memoryview | Verdict:
        return self.wanted

    def received(self, header: Header) -> None:
        self.got.append((header.chunk, header.checksum))

    def corrupt(self, header: Header) -> None:
        raise AssertionError("there is nothing that could be damaged")


def feed(protocol: FrameProtocol, data: bytes) -> None:
    buffer = protocol.get_buffer(-1)
    buffer[: len(data)] = data
    protocol.buffer_updated(len(data))


def placed(chunk: int, checksum: int = 0) -> bytes:
    return encode(Kind.PLACED, chunk=chunk, payload_checksum=checksum)


async def test_they_are_received_with_their_header() -> None:
    inbox = Inbox()
    protocol = FrameProtocol(inbox, on_lost=lambda reason: None, on_drained=lambda: None)
    protocol.connection_made(Wire())  # type: ignore[arg-type]
    feed(protocol, placed(1) + placed(2, 77) + placed(3)[:40])
    assert inbox.got == [(1, 0), (2, 77)]
    feed(protocol, placed(3)[40:])
    assert inbox.got[-1] == (3, 0)


async def test_they_can_be_held_and_thrown_away() -> None:
    inbox = Inbox()
    protocol = FrameProtocol(inbox, on_lost=lambda reason: None, on_drained=lambda: None)
    protocol.connection_made(Wire())  # type: ignore[arg-type]
    inbox.wanted = Verdict.HOLD
    feed(protocol, placed(1) + placed(2))
    assert inbox.got == []
    inbox.wanted = memoryview(b"")
    protocol.resume()
    assert inbox.got == [(1, 0), (2, 0)]
    inbox.wanted = Verdict.DRAIN
    feed(protocol, placed(3))
    assert len(inbox.got) == 2


def test_a_payload_behind_one_is_refused() -> None:
    with pytest.raises(FrameError, match="lies on the board"):
        decode(memoryview(encode(Kind.PLACED, payload=1)))
