"""What travels on a link: a fixed header, a short ``extra``, a payload.

The header is 64 bytes, network byte order: magic ``LP``, version, kind (low four bits) and phase (high four), epoch
number, epoch tag, round (request id on fetch links), segment, chunk, length of extra, length of payload, xxh3-64 of
extra (its low 32 bits), of payload, and of the 56 header bytes before it.  ``extra`` is followed by zeros up to a
multiple of 64, so that large payloads stay aligned in the stream: the kernel copies aligned memory faster.

XXH3 (Yann Collet, 64-bit, seed 0) is a checksum, not a signature: it finds damage and programming errors on links
whose ends were authenticated when they were opened.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

import xxhash

_LAYOUT = struct.Struct("!2sBBQQQIIIIIQQ")
_BODY = struct.Struct("!2sBBQQQIIIIIQ")
_CHECK = struct.Struct("!Q")
_MAGIC = b"LP"
_ALIGN = 64
_VERSION = 1

Bytes = bytes | bytearray | memoryview

HEADER_BYTES = _LAYOUT.size
MAX_PAYLOAD = 1 << 20
"""Default bound on one payload, bytes: what a remote can make this side receive into one place."""
MAX_EXTRA = 256 << 10
"""Bound on ``extra``, bytes: room for the records of some 230 peers with notes of full length."""


class FrameError(ValueError):
    """Bytes that are no frame of this protocol, in one line; the link that brought them is closed."""


class Kind(IntEnum):
    """What a frame is."""

    WELCOME = 1
    """The acceptor's answer to a ticket: the link is open."""
    HEARTBEAT = 2
    """Alive, nothing to send."""
    CHUNK = 3
    """A chunk of a round (ring links)."""
    FETCH = 4
    """Please send a range of a resource (fetch links)."""
    FETCHED = 5
    """The range asked for."""
    FAILED = 6
    """Why the range cannot be sent; ``extra`` is the reason."""
    PUSH = 7
    """A part of a message for the remote's push handler (push links)."""
    PUSHED = 8
    """What became of that message; ``phase`` says it."""
    ARENA = 9
    """The memory for LENT chunks was handed in at the door that the WELCOME named (see ``door.py``)."""
    LENT = 10
    """A CHUNK whose payload does not follow: it lies in the arena's next slot (see ``arena.py``).

    Its checksum may be 0, not said, for bytes that are only read there: they do not travel.
    """
    RETURNED = 11
    """The arena's two oldest slots may be written again."""
    BOARD = 12
    """Memory for all members of ``epoch`` was handed in at the door; ``round`` is its number (see ``board.py``)."""
    PLACED = 13
    """A CHUNK whose payload lies on the board, with which it is the receiver's turn.

    Its checksum is 0 for a partial sum; for what is final it is that of the checksums of all chunks it stands for.
    """


_KINDS = {kind.value: kind for kind in Kind}


class Header(NamedTuple):
    """The fixed part of a frame.  ``epoch``, ``tag``, ``round``, ``checksum`` fit 64 bits, ``phase`` 4, the rest 32.

    ``lent`` is not on the wire: the payload of a LENT frame, readable until ``received`` or ``corrupt`` returns.
    """

    kind: Kind
    epoch: int = 0
    tag: int = 0
    round: int = 0
    segment: int = 0
    chunk: int = 0
    phase: int = 0
    extra: int = 0
    payload: int = 0
    extra_checksum: int = 0
    checksum: int = 0
    lent: memoryview | None = None


def checksum(data: Bytes) -> int:
    """XXH3-64 of ``data``: the number that a header carries for its payload."""
    return xxhash.xxh3_64_intdigest(data)


def short_checksum(extra: Bytes) -> int:
    """The low 32 bits of :func:`checksum`: the number that a header carries for ``extra``."""
    return checksum(extra) & 0xFFFFFFFF


_EMPTY = checksum(b"")


def encode(
    kind: Kind,
    *,
    epoch: int = 0,
    tag: int = 0,
    round: int = 0,
    segment: int = 0,
    chunk: int = 0,
    phase: int = 0,
    extra: bytes = b"",
    payload: int = 0,
    payload_checksum: int = _EMPTY,
) -> bytes:
    """Header and extra as one bytes object; the payload, ``payload`` bytes long, is sent after it.

    Raises ``ValueError`` if ``extra`` is longer than ``MAX_EXTRA``.
    """
    if len(extra) > MAX_EXTRA:
        raise ValueError(f"the records of a frame are at most {MAX_EXTRA} bytes, these have {len(extra)}")
    body = _BODY.pack(
        _MAGIC,
        _VERSION,
        kind | phase << 4,
        epoch,
        tag,
        round,
        segment,
        chunk,
        len(extra),
        payload,
        short_checksum(extra) if extra else 0,
        payload_checksum,
    )
    return b"".join((body, _CHECK.pack(checksum(body)), extra, bytes(-len(extra) % _ALIGN)))


def head_bytes(header: Header) -> int:
    """Bytes before the payload: the header, ``extra`` and what aligns it."""
    return HEADER_BYTES + header.extra + -header.extra % _ALIGN


def decode(
    data: memoryview,
    *,
    max_payload: int = MAX_PAYLOAD,
    max_extra: int = MAX_EXTRA,
    lent: Callable[[int], memoryview] | None = None,
) -> Header:
    """Read the header at the start of ``data`` (at least ``HEADER_BYTES``); :class:`FrameError` for anything else.

    ``lent`` finds the payload of a LENT frame; without it there can be none.
    """
    fields = _LAYOUT.unpack_from(data)
    magic, version, kind = fields[:3]
    if magic != _MAGIC:
        raise FrameError(f"not a frame (it starts with {magic!r})")
    if fields[-1] != checksum(data[: _BODY.size]):
        raise FrameError("a header with a wrong checksum")
    if version != _VERSION:
        raise FrameError(f"a frame of version {version}, this side speaks {_VERSION}")
    epoch, tag, round_, segment, chunk, extra, payload, extra_checksum, payload_checksum = fields[3:-1]
    if extra > max_extra:
        raise FrameError(f"{extra} bytes of records announced, {max_extra} at most are allowed")
    if payload > max_payload:
        raise FrameError(f"{payload} bytes of payload announced, {max_payload} at most are allowed")
    known = _KINDS.get(kind & 15)
    if known is None:
        raise FrameError(f"a frame of unknown kind {kind & 15}")
    if known is Kind.PLACED and payload:
        raise FrameError("a payload behind a frame that says that it lies on the board")
    memory = None
    if known is Kind.LENT:
        if lent is None:
            raise FrameError("a payload in an arena that was never handed in")
        memory = lent(payload)
    return Header(
        known, epoch, tag, round_, segment, chunk, kind >> 4, extra, payload, extra_checksum, payload_checksum, memory
    )
