"""Frames off a socket: headers into a small stage, payloads straight into the destination's memory.

The reader never allocates on the word of the remote: lengths are checked against the bounds in ``frames`` first, the
stage grows to ``max_extra`` at most, and a payload goes where the handler says or into a scratch buffer.

On a sealed link each piece of a frame is opened when all of it is here (see ``seal.py``): the header before anything is
done because of it, a payload from a buffer of the link's own into its destination, once its tag has been checked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum
from typing import Protocol, cast

from lepton_p2p.transport.links.allowance import Allowance
from lepton_p2p.transport.links.arena import Borrower
from lepton_p2p.transport.links.frames import (
    HEADER_BYTES,
    MAX_EXTRA,
    MAX_PAYLOAD,
    FrameError,
    Header,
    Kind,
    checksum,
    decode,
    head_bytes,
    short_checksum,
)
from lepton_p2p.transport.links.seal import HEADER, TAG_BYTES, Opener, extra_of, payload_of

_STAGE = 8 << 10
"""One read brings a whole small frame; of a large one at most this much is copied once more."""
_SCRATCH = 64 << 10
_HEARTBEATS = (1000, 200.0)
"""At once, and per second: peers send a few in a second."""
_CONTROL = frozenset((Kind.HEARTBEAT, Kind.ARENA, Kind.RETURNED))


class Verdict(Enum):
    """What to do with a frame that has no destination."""

    DRAIN = "drain"
    """Read its payload and throw it away."""
    HOLD = "hold"
    """Stop reading this link until :meth:`FrameProtocol.resume`; the frame is then offered again."""


class FrameHandler(Protocol):
    """Who decides where frames go; called by :class:`FrameProtocol`, never concurrently."""

    def admit(self, header: Header, extra: bytes) -> memoryview | Verdict:
        """Where the payload goes: writable memory of exactly ``header.payload`` bytes, or a verdict.

        ``header.lent`` itself, if there is one, says: leave it there.  The payload of a PLACED frame is where it is
        to be already: any memory says that it is wanted.
        """

    def received(self, header: Header) -> None:
        """The payload is complete in the memory that ``admit`` gave, and its checksum (if it has one) is right."""

    def corrupt(self, header: Header) -> None:
        """The payload is complete in the memory that ``admit`` gave, and its checksum is wrong."""


class FrameProtocol(asyncio.BufferedProtocol):
    """One direction of reading for one link.

    ``on_lost(reason)`` is called once, when the socket is gone, by whatever cause.  ``on_drained()`` is called when
    the transport's write buffer has become empty.  ``on_control(kind)`` hears of the frames that are the link's own
    business.  ``last_received`` is the loop's time of the last byte, ``gap`` the seconds between the last two times
    that bytes came.  ``borrower`` is where LENT payloads lie, None if this link has no arena.  ``opener``: the link is
    sealed, and this is its receiving end.
    """

    def __init__(
        self,
        handler: FrameHandler,
        *,
        on_lost: Callable[[str], None],
        on_drained: Callable[[], None],
        on_control: Callable[[Kind], None] = lambda kind: None,
        max_payload: int = MAX_PAYLOAD,
        max_extra: int = MAX_EXTRA,
        opener: Opener | None = None,
    ) -> None:
        self.handler = handler
        self.last_received = 0.0
        self.gap = 0.0
        self.bytes_received = 0
        self.frames_received = 0
        self.held = False
        self._paused = False
        self.writing_paused = False
        self._on_lost = on_lost
        self._on_drained = on_drained
        self._on_control = on_control
        self.borrower: Borrower | None = None
        self._max_payload, self._max_extra = max_payload, max_extra
        self._heartbeats = Allowance(*_HEARTBEATS)
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._stage = memoryview(bytearray(_STAGE))
        self._scratch: memoryview | None = None
        self._opener = opener
        self._tag = TAG_BYTES if opener is not None else 0
        self._sealed = memoryview(bytearray())
        self._start = self._end = 0
        self._header: Header | None = None
        self._plain = b""
        """The header of the present frame as it was before it was sealed."""
        self._extra: bytes | None = None
        self._body = False
        self._target: memoryview | None = None
        """Where the payload is to be in the end."""
        self._landing: memoryview | None = None
        """Where its bytes go from the socket: there too, or where they are opened; None: nobody wants them."""
        self._size = self._filled = 0
        """Bytes of the payload on the wire; how many of them have come."""
        self._reason = ""

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports do not inherit from asyncio's
        self.last_received = self._loop.time()

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._body and self._start == self._end:
            if self._landing is not None:
                return self._landing[self._filled :]
            if self._scratch is None:
                self._scratch = memoryview(bytearray(_SCRATCH))
            return self._scratch[: self._size - self._filled]
        return self._stage[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        now = self._loop.time()
        self.gap = now - self.last_received
        self.last_received = now
        self.bytes_received += nbytes
        if self._body and self._start == self._end:
            self._filled += nbytes
            if self._filled < self._size:
                return
        else:
            self._end += nbytes
        self._parse()

    def eof_received(self) -> bool:
        self._reason = self._reason or "the remote closed the connection"
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._on_lost(self._reason or (f"the connection broke: {exc}" if exc else "the connection was closed"))

    def pause_writing(self) -> None:
        self.writing_paused = True

    def resume_writing(self) -> None:
        self.writing_paused = False
        self._on_drained()

    # the link and its owner call these

    def resume(self) -> None:
        """Offer the frame that is held to the handler again."""
        if self.held:
            self.held = False
            self.last_received = self._loop.time()  # nobody listened: the silence until now was not the remote's
            self._parse()
            if not self.held and self._transport is not None and not self._transport.is_closing():
                self._paused = False
                self._transport.resume_reading()

    def divert(self) -> None:
        """Throw away the rest of the payload that is under way: its memory is no longer written to."""
        self._target = None
        if self._opener is None:
            self._landing = None

    def wipe(self) -> None:
        """The link is gone: forget its keys."""
        if self._opener is not None:
            self._opener.wipe()

    def fail(self, reason: str) -> None:
        """Close the socket at once and give ``reason`` to ``on_lost`` (the first reason counts)."""
        self._reason = self._reason or reason
        if self._transport is not None:
            self._transport.abort()

    # the parser

    def _parse(self) -> None:
        try:
            while not self.held and not self._reason and self._step():
                pass
        except FrameError as error:
            self.fail(f"bad frame: {error}")
        if self._start == self._end:
            self._start = self._end = 0

    def _step(self) -> bool:
        """Do what the staged bytes allow; False if more bytes are needed."""
        if not self._body:
            return self._begin()
        header = self._header
        assert header is not None
        if self._filled < self._size:
            take = min(self._end - self._start, self._size - self._filled)
            if self._landing is not None:
                self._landing[self._filled : self._filled + take] = self._stage[self._start : self._start + take]
            self._filled += take
            self._start += take
            if self._filled < self._size:
                return False
        self._finish(header)
        return True

    def _begin(self) -> bool:
        """Read a header and its extra, and ask where the payload goes."""
        header = self._header
        if header is None:
            piece = self._piece(HEADER_BYTES, HEADER)
            if piece is None:
                return False
            lent = self.borrower.slot if self.borrower is not None else None
            self._plain = piece
            self._header = header = decode(
                memoryview(piece), max_payload=self._max_payload, max_extra=self._max_extra, lent=lent
            )
        if self._extra is None and not self._read_extra(header):
            return False
        if header.kind in _CONTROL and not header.payload:
            self._header = self._extra = None
            if header.kind is not Kind.HEARTBEAT:
                self._on_control(header.kind)
            elif not self._heartbeats.spend(self._loop.time()):
                raise FrameError("more heartbeats than anybody needs")
            return True
        verdict = self.handler.admit(header, self._extra or b"")
        if verdict is Verdict.HOLD:
            self.held = True
            if not self._paused and self._transport is not None and not self._transport.is_closing():
                self._paused = True
                self._transport.pause_reading()
            return False
        self._target = verdict if isinstance(verdict, memoryview) else None
        if header.lent is not None:
            self._take(header, header.lent)
        elif header.kind is Kind.PLACED:
            self._finish(header)
        else:
            self._expect(header.payload)
        return True

    def _read_extra(self, header: Header) -> bool:
        extra = b""
        if header.extra:
            piece = self._piece(head_bytes(header) - HEADER_BYTES, extra_of(self._plain))
            if piece is None:
                return False
            extra = piece[: header.extra]
            if short_checksum(extra) != header.extra_checksum:
                raise FrameError("records with a wrong checksum")
        self._extra = extra
        return True

    def _piece(self, nbytes: int, about: bytes) -> bytes | None:
        """The next ``nbytes`` of the stream, opened; None if they are not all here."""
        need = nbytes + self._tag
        if self._end - self._start < need:
            self._make_room(need)
            return None
        staged = self._stage[self._start : self._start + need]
        self._start += need
        return bytes(staged) if self._opener is None else self._opener.open(staged, about)

    def _expect(self, payload: int) -> None:
        """The next bytes of the stream are a payload of so many."""
        self._body, self._filled = True, 0
        self._size = payload + self._tag if payload else 0
        self._landing = self._target
        if self._opener is not None and not self._reason:
            if len(self._sealed) < self._size:
                self._sealed = memoryview(bytearray(self._size))
            self._landing = self._sealed[: self._size]

    def _take(self, header: Header, lent: memoryview) -> None:
        """A payload that is here already."""
        if self._target is not None and self._target is not lent:
            self._target[:] = lent
        self.bytes_received += lent.nbytes
        self._finish(header)
        if self.borrower is not None and self.borrower.give_back():  # None: the link is gone meanwhile
            self._on_control(Kind.LENT)

    def _make_room(self, need: int) -> None:
        """Move the staged bytes to the front, into a larger stage if ``need`` (bounded by ``decode``) asks for it."""
        have = self._end - self._start
        if self._start + need > len(self._stage) or self._start + have == len(self._stage):
            old = bytes(self._stage[self._start : self._end])
            if need > len(self._stage):
                self._stage = memoryview(bytearray(need))
            self._stage[:have] = old
            self._start, self._end = 0, have

    def _finish(self, header: Header) -> None:
        target, self._target = self._target, None
        sealed, self._landing = self._landing, None
        self._header, self._extra, self._body = None, None, False
        if self._opener is not None and sealed is not None and self._size:
            into = sealed[: header.payload] if target is None else target
            self._opener.open_into(sealed, payload_of(self._plain), into)
        self.frames_received += 1
        if target is None:
            return
        elsewhere = header.kind is Kind.PLACED or (target is header.lent and not header.checksum)
        if elsewhere or checksum(target) == header.checksum:
            self.handler.received(header)
        else:
            self.handler.corrupt(header)
