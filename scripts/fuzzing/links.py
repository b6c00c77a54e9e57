"""The data plane: frames, open and sealed, greetings, the Unix door, requests on fetch links.

They need a running event loop, although nothing is ever waited for.
"""

from __future__ import annotations

import array
import contextlib
import itertools
import os
import socket
from typing import Any

from fuzzing.target import Reader, Target, slices
from lepton_p2p.collectives.fetch import FetchServer
from lepton_p2p.identity import PeerId
from lepton_p2p.transport.links.door import OFFER_BYTES, SECRET_BYTES, Door
from lepton_p2p.transport.links.frames import (
    _BODY,
    _CHECK,
    HEADER_BYTES,
    MAX_EXTRA,
    MAX_PAYLOAD,
    Header,
    Kind,
    checksum,
    encode,
    short_checksum,
)
from lepton_p2p.transport.links.handshake import PREAMBLE, SEALED_PREAMBLE, Handshake
from lepton_p2p.transport.links.link import Link, Purpose
from lepton_p2p.transport.links.outlet import seal_frame, sealed_bytes
from lepton_p2p.transport.links.protocol import FrameProtocol, Verdict
from lepton_p2p.transport.links.seal import Opener, Sealer, SealError
from lepton_p2p.transport.links.tickets import TOKEN_BYTES

SECRET = bytes(range(32))
_SENT = [(b"first" * 50, b""), (b"", b"records"), (b"third" * 500, b"more records" * 20)]


class Wire:
    """A transport that goes nowhere."""

    def __init__(self, **info: Any) -> None:
        self.info = info
        self.aborted = False
        self.written = 0

    def get_extra_info(self, name: str) -> Any:
        return self.info.get(name)

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return self.written

    def write(self, data: bytes) -> None:
        self.written += len(data)

    def writelines(self, parts: list[bytes]) -> None:
        self.written += sum(map(len, parts))

    def is_closing(self) -> bool:
        return self.aborted

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def abort(self) -> None:
        self.aborted = True

    close = abort


class Inbox:
    """Takes, throws away or holds frames, as their own headers say; checks what it is told about them."""

    def __init__(self) -> None:
        self.memory = bytearray()
        self.got: list[bytes] = []

    def admit(self, header: Header, extra: bytes) -> memoryview | Verdict:
        assert len(extra) == header.extra <= MAX_EXTRA
        assert header.payload <= MAX_PAYLOAD
        if header.segment % 4 == 3:
            return Verdict.DRAIN
        self.memory = bytearray(header.payload)
        return memoryview(self.memory)

    def received(self, header: Header) -> None:
        if header.kind is not Kind.PLACED:
            assert checksum(self.memory) == header.checksum
        self.got.append(bytes(self.memory))

    def corrupt(self, header: Header) -> None:
        assert checksum(self.memory) != header.checksum


def feed(data: bytes, inbox: Inbox, sizes: list[int], opener: Opener | None = None) -> FrameProtocol:
    """Let a protocol read ``data``, at most so many bytes at a time."""
    protocol = FrameProtocol(inbox, on_lost=lambda reason: None, on_drained=lambda: None, opener=opener)
    wire = Wire()
    protocol.connection_made(wire)  # type: ignore[arg-type]
    for piece in slices(data, itertools.cycle(sizes)):
        view = memoryview(piece)
        while view and not wire.aborted:
            buffer = protocol.get_buffer(-1)
            count = min(len(view), len(buffer))
            assert count, "a reader with no room for a byte"
            buffer[:count] = view[:count]
            view = view[count:]
            protocol.buffer_updated(count)
    protocol.connection_lost(None)
    assert len(protocol._stage) <= MAX_EXTRA + HEADER_BYTES + 64 + 16
    return protocol


def mended(reader: Reader) -> tuple[bytes, bytes]:
    """Head and payload of a frame with arbitrary fields and the right checksums: the fuzzer does not guess those."""
    kind, sizes = reader.byte(), reader.take(4).ljust(4, b"\0")
    fields = [int.from_bytes(reader.take(size)) for size in (8, 8, 8, 4, 4)]
    extra, payload = reader.take(sizes[0]), reader.take(sizes[1])
    lies = [(1 << 8 * (how % 4)) * (how >= 250) for how in sizes[2:]]
    said = (len(extra) + lies[0], len(payload) + lies[1])
    body = _BODY.pack(b"LP", 1, kind, *fields, *said, short_checksum(extra) if extra else 0, checksum(payload))
    return body + _CHECK.pack(checksum(body)) + extra + bytes(-len(extra) % 64), payload


def open_frames(data: bytes) -> None:
    """Frames of a member that sends what it likes."""
    reader, stream = Reader(data), bytearray()
    sizes = list(reader.take(3)) or [64]
    while reader:
        if reader.byte() < 200:
            stream += b"".join(mended(reader))
        else:
            stream += reader.take(reader.byte())
    feed(bytes(stream), Inbox(), sizes)


def sealed_frames(data: bytes) -> None:
    """The same member, on a sealed link: what it seals opens, and is read as above."""
    reader, stream, sealer = Reader(data), bytearray(), Sealer(bytearray(SECRET))
    sizes = list(reader.take(3)) or [64]
    while reader:
        head, payload = mended(reader)
        view = memoryview(payload)
        into = memoryview(bytearray(sealed_bytes(head, view)))
        seal_frame(sealer, head, view, into)
        stream += into
    feed(bytes(stream), Inbox(), sizes, Opener(bytearray(SECRET)))


def noise_where_links_are_sealed(data: bytes) -> None:
    """Somebody without keys: nothing is ever received."""
    inbox = Inbox()
    feed(data, inbox, [61, 4000], Opener(bytearray(SECRET)))
    assert not inbox.got


def tampered(data: bytes) -> None:
    """Somebody on the wire: what is received is a beginning of what was sent, whatever he does."""
    sealer, wire = Sealer(bytearray(SECRET)), []
    for payload, extra in _SENT:
        head = encode(Kind.CHUNK, extra=extra, payload=len(payload), payload_checksum=checksum(payload))
        into = memoryview(bytearray(sealed_bytes(head, memoryview(payload))))
        seal_frame(sealer, head, memoryview(payload), into)
        wire.append(bytes(into))
    whole, stream, reader = b"".join(wire), bytearray(), Reader(data)
    while reader:
        how, start, count = reader.byte(), int.from_bytes(reader.take(2)), reader.byte() * 16
        piece = bytearray(whole[start % len(whole) :][:count] if how & 1 else whole[len(stream) :][:count])
        if how & 6 == 6 and piece:
            piece[start % len(piece)] ^= how
        stream += piece if how & 8 == 0 else reader.take(count)
    inbox = Inbox()
    feed(bytes(stream), inbox, [1000, 77], Opener(bytearray(SECRET)))
    sent = [payload for payload, _ in _SENT]
    assert inbox.got == sent[: len(inbox.got)]


def opener(data: bytes) -> None:
    """Pieces for one opener: only the next one opens."""
    reader, end, sealer = Reader(data), Opener(bytearray(SECRET), pieces=2), Sealer(bytearray(SECRET), pieces=2)
    while reader:
        honest, about, piece = reader.byte() & 1, reader.take(3), reader.take(reader.byte())
        try:
            assert end.open(sealer.seal(piece, about) if honest else piece, about) == piece
            assert honest
        except SealError:
            assert not honest
            return


def greeting(data: bytes) -> None:
    """A connection to the data port, in pieces: told about at most once, with a token of the right length."""
    for sealed in (False, True):
        tokens: list[bytes] = []
        ends: list[str] = []

        def token(handshake: Handshake, token: bytes, proof: bytes, tokens: list[bytes] = tokens) -> None:
            tokens.append(token)
            assert len(token) == TOKEN_BYTES
            handshake.reject("not here")

        def end(handshake: Handshake, reason: str, ends: list[str] = ends) -> None:
            ends.append(reason)

        wire = Wire(peername=("192.0.2.1", 1))
        handshake = Handshake(timeout=5.0, sealed=sealed, on_start=lambda one: None, on_token=token, on_end=end)
        handshake.connection_made(wire)  # type: ignore[arg-type]
        for piece in slices(data, itertools.cycle([7, 100])):
            view = memoryview(piece)
            while view and not wire.aborted:
                buffer = handshake.get_buffer(-1)
                count = min(len(view), len(buffer))
                buffer[:count] = view[:count]
                view = view[count:]
                handshake.buffer_updated(count)
        handshake.connection_lost(None)
        assert len(tokens) <= 1
        assert len(ends) == 1
        assert not tokens or data.startswith(SEALED_PREAMBLE if sealed else PREAMBLE)


def door(data: bytes) -> None:
    """Datagrams with descriptors at the Unix door: one is kept if it came with the secret, the others are closed."""
    reader, one = Reader(data), Door()
    offer = one.offer()
    secret, collected = offer[OFFER_BYTES - SECRET_BYTES :], []
    before = len(os.listdir("/proc/self/fd"))
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            for _ in range(8):
                how = reader.byte()
                message = secret if how & 1 else reader.take(how >> 3)
                fds = array.array("i", [sock.fileno()] * (how >> 1 & 3))
                notes = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if fds else []
                with contextlib.suppress(BlockingIOError):
                    sock.sendmsg([message], notes, 0, one._socket.getsockname())
            while (fd := one.collect(offer)) is not None:
                collected.append(fd)
        assert len(collected) <= 2
        assert len(os.listdir("/proc/self/fd")) == before + len(collected)
    finally:
        for fd in collected:
            os.close(fd)
        one.close()


_BYTES = memoryview(bytes(1 << 16))


def fetch_request(data: bytes) -> None:
    """Requests on a fetch link: answered, refused, or the link is closed; never more bytes than exist."""
    server, link, wire = FetchServer(), Link(PeerId("a" * 32), Purpose.FETCH), Wire()
    server.provide("result", 1, lambda offset, length: _BYTES[offset : offset + length])
    link.protocol.connection_made(wire)  # type: ignore[arg-type]
    link.attach(wire)  # type: ignore[arg-type]
    server.accept(link)
    reader = Reader(data)
    kind = reader.byte() % (len(Kind) + 1)
    head = encode(Kind.FETCH, round=reader.byte(), extra=reader.rest()[:2000]) if kind else b"".join(mended(reader))
    for piece in slices(head, itertools.repeat(8000)):
        buffer = link.protocol.get_buffer(-1)
        buffer[: len(piece)] = piece
        link.protocol.buffer_updated(len(piece))
        if wire.aborted:
            break
    assert wire.written <= len(_BYTES) + 1000
    link.protocol.connection_lost(None)


_FRAME = bytes([200, 3, 5, 0, 0]) + bytes(32) + b"abcdefgh"
TARGETS = (
    Target("links.open_frames", open_frames, (b"\x40\x40\x40" + b"\0\x03" + _FRAME, encode(Kind.HEARTBEAT))),
    Target("links.sealed_frames", sealed_frames, (b"\x40\x40\x40\x03" + _FRAME,)),
    Target("links.noise", noise_where_links_are_sealed, (bytes(200),)),
    Target("links.tampered", tampered, (b"\0\0\0\xff" * 16, b"\x06\0\x10\xff")),
    Target("links.opener", opener, (b"\x01abc\x05hello\x00abc\x10" + bytes(16),)),
    Target("links.greeting", greeting, (PREAMBLE + bytes(32), SEALED_PREAMBLE + bytes(48))),
    Target("links.door", door, (bytes([0x83, 0x84, 0x87]) + bytes(40),)),
    Target("links.fetch_request", fetch_request, (b"\x01\x07" + bytes(7) + b"\x01" + bytes(10) + b"\x10\0result",)),
)
