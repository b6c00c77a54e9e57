"""How frames leave by a connection: as they are, or sealed."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from lepton_p2p.transport.links.frames import HEADER_BYTES
from lepton_p2p.transport.links.seal import HEADER, TAG_BYTES, Sealer, extra_of, payload_of

_SMALL = 16 << 10
"""Payloads up to this size are copied behind their header: cheaper than a second buffer in the write."""


class Outlet(Protocol):
    """The way out of one link; ``transport`` tells its protocol when it has taken all that was written."""

    def send(self, head: bytes, payload: memoryview | None) -> int:
        """Send a frame; what it takes on the wire.  ``payload`` is referenced while :attr:`buffered` is not 0."""

    @property
    def buffered(self) -> int:
        """Bytes that the socket has not taken yet."""

    def pump(self) -> None:
        """The transport has taken all that was written: go on."""

    def wipe(self) -> None:
        """The link is gone: drop what waits, and keys."""


class OpenOutlet:
    """Frames as they are; payloads above 16 KiB are not copied."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def send(self, head: bytes, payload: memoryview | None) -> int:
        if payload is None or not payload.nbytes:
            self._transport.write(head)
            return len(head)
        if payload.nbytes <= _SMALL:
            self._transport.write(head + bytes(payload))
        else:
            self._transport.writelines((head, payload))
        return len(head) + payload.nbytes

    @property
    def buffered(self) -> int:
        return self._transport.get_write_buffer_size()

    def pump(self) -> None:
        pass

    def wipe(self) -> None:
        pass


class SealedOutlet:
    """Frames sealed, one at a time, each when the one before it has left: one buffer of one frame is enough."""

    def __init__(self, transport: asyncio.Transport, sealer: Sealer) -> None:
        self._transport, self._sealer = transport, sealer
        self._waiting: deque[tuple[bytes, memoryview | None]] = deque()
        self._waiting_bytes = 0
        self._buffer = memoryview(bytearray())

    def send(self, head: bytes, payload: memoryview | None) -> int:
        size = sealed_bytes(head, payload)
        self._waiting.append((head, payload))
        self._waiting_bytes += size
        self.pump()
        return size

    @property
    def buffered(self) -> int:
        return self._waiting_bytes + self._transport.get_write_buffer_size()

    def pump(self) -> None:
        while self._waiting and not self._transport.get_write_buffer_size() and not self._transport.is_closing():
            head, payload = self._waiting.popleft()
            size = sealed_bytes(head, payload)
            self._waiting_bytes -= size
            if len(self._buffer) < size:
                self._buffer = memoryview(bytearray(size))
            seal_frame(self._sealer, head, payload, self._buffer[:size])
            self._transport.write(self._buffer[:size])

    def wipe(self) -> None:
        self._waiting.clear()
        self._waiting_bytes = 0
        self._sealer.wipe()


def sealed_bytes(head: bytes, payload: memoryview | None) -> int:
    """What a frame takes when it is sealed."""
    nbytes = 0 if payload is None else payload.nbytes
    pieces = 1 + (len(head) > HEADER_BYTES) + bool(nbytes)
    return len(head) + nbytes + pieces * TAG_BYTES


def seal_frame(sealer: Sealer, head: bytes, payload: memoryview | None, into: memoryview) -> None:
    """Write a frame to ``into``, which has exactly :func:`sealed_bytes`: header, what follows it, payload."""
    whole = memoryview(head)
    header, extra = whole[:HEADER_BYTES], whole[HEADER_BYTES:]
    end = HEADER_BYTES + TAG_BYTES
    sealer.seal_into(header, HEADER, into[:end])
    if extra.nbytes:
        start, end = end, end + extra.nbytes + TAG_BYTES
        sealer.seal_into(extra, extra_of(header), into[start:end])
    if payload is not None and payload.nbytes:
        sealer.seal_into(payload, payload_of(header), into[end:])
