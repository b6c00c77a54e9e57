"""Ranges of bytes on demand over fetch links: kept results for peers that missed a round, snapshots for joiners.

A request names a resource ``(kind, key)``, an offset and a length of at most 1 MiB; the answer is one frame that goes
straight into the asker's memory, or the reason why not.  Several requests may be under way, answers come in order.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from lepton_p2p.errors import IntegrityError, StateLost, SwarmUnreachable
from lepton_p2p.identity import PeerId, short
from lepton_p2p.transport.links.frames import MAX_PAYLOAD, Header, Kind, checksum, encode
from lepton_p2p.transport.links.link import Link
from lepton_p2p.transport.links.protocol import Verdict

_REQUEST = struct.Struct("!QQI")
_MAX_KIND = 64
_WINDOW = 4
"""Requests under way at once: enough to hide a round trip, little enough to share a donor fairly."""
_MAX_REASON = 300

Reader = Callable[[int, int], memoryview]
"""``reader(offset, length)``: exactly these bytes, which stay as they are while they are sent.

Outside the resource it raises ``ValueError`` or returns fewer bytes.
"""


class RemoteGone(SwarmUnreachable):
    """The peer that was asked for bytes closed the link, died, or stopped answering."""


class NoSuchResource(StateLost):
    """The peer that was asked for bytes does not have them (any more)."""


class OutOfRange(IntegrityError):
    """The bytes asked for lie outside of the resource: the two sides disagree on its size."""


_REFUSALS: dict[int, type[NoSuchResource] | type[OutOfRange]] = {1: NoSuchResource, 2: OutOfRange}
_MISSING, _OUTSIDE = 1, 2


class FetchServer:
    """Answers the requests on all accepted fetch links of one peer; everything happens on the event loop."""

    def __init__(self) -> None:
        self._readers: dict[tuple[str, int], Reader] = {}
        self.bytes_served = 0

    def provide(self, kind: str, key: int, reader: Reader) -> None:
        """Serve ``(kind, key)`` with ``reader`` until :meth:`withdraw`; ``kind`` has at most 64 bytes of ASCII."""
        if not kind.isascii() or not 0 < len(kind) <= _MAX_KIND:
            raise ValueError(f"a kind of resource has 1 to {_MAX_KIND} ASCII characters, not {kind!r}")
        self._readers[kind, key] = reader

    def withdraw(self, kind: str, key: int) -> None:
        """Stop serving ``(kind, key)``; what is being sent already goes on being read.  Unknown ones are ignored."""
        self._readers.pop((kind, key), None)

    def accept(self, link: Link) -> None:
        """Take over an accepted link; the acceptor for ``LinkHub.serve(Purpose.FETCH, ...)``."""
        link.handler = _Serving(self, link)
        # One who asks and does not read is not answered further; it is offered again when the socket has taken all.
        link.on_writable = link.protocol.resume

    def answer(self, link: Link, number: int, request: bytes) -> None:
        """Send what ``request`` asks for, or why not."""
        key, offset, length = _REQUEST.unpack_from(request)
        kind = bytes(request[_REQUEST.size :]).decode("ascii", "replace")
        reader = self._readers.get((kind, key))
        if reader is None:
            _refuse(link, number, _MISSING, f"it does not have {kind} {key}")
            return
        try:
            data = reader(offset, length)
        except (ValueError, IndexError, LookupError) as error:
            _refuse(link, number, _OUTSIDE, f"{kind} {key} has no {length} bytes at {offset}: {error}")
            return
        if data.nbytes != length:
            _refuse(link, number, _OUTSIDE, f"{kind} {key} has no {length} bytes at {offset}")
            return
        link.send(encode(Kind.FETCHED, round=number, payload=length, payload_checksum=checksum(data)), data)
        self.bytes_served += length


def _refuse(link: Link, number: int, code: int, reason: str) -> None:
    link.send(encode(Kind.FAILED, round=number, segment=code, extra=reason.encode()[:_MAX_REASON]))


class _Serving:
    """The handler of one accepted fetch link."""

    def __init__(self, server: FetchServer, link: Link) -> None:
        self._server = server
        self._link = link

    def admit(self, header: Header, extra: bytes) -> Verdict:
        if self._link.buffered:
            return Verdict.HOLD
        length = _REQUEST.unpack_from(extra)[2] if len(extra) >= _REQUEST.size else 0
        if header.kind is not Kind.FETCH or header.payload or not 0 < length <= MAX_PAYLOAD:
            self._link.abort("a malformed request on a fetch link")
        elif len(extra) > _REQUEST.size + _MAX_KIND:
            self._link.abort("a request for a resource with an overlong name on a fetch link")
        else:
            self._server.answer(self._link, header.round, extra)
        return Verdict.DRAIN

    def received(self, header: Header) -> None:  # pragma: no cover - admit never gives memory
        raise AssertionError("unreachable")

    corrupt = received


@dataclass(slots=True)
class _Wanted:
    """A request under way."""

    number: int
    into: memoryview
    done: asyncio.Future[None]


class Fetcher:
    """The asking side of one opened fetch link.  ``silence``: seconds without any byte before giving up."""

    def __init__(self, link: Link, *, silence: float = 10.0) -> None:
        self._link = link
        self._silence = silence
        self._loop = asyncio.get_running_loop()
        self._name = short(link.remote or PeerId("the peer"))
        self._wanted: deque[_Wanted] = deque()
        self._receiving: _Wanted | None = None
        self._next = 1
        link.handler = self
        link.watch(self._lost)

    async def fetch_range(self, kind: str, key: int, offset: int, into: memoryview) -> None:
        """Fill ``into`` (writable, contiguous bytes) with the resource's bytes from ``offset`` on.

        Raises :class:`RemoteGone`, :class:`NoSuchResource`, :class:`OutOfRange`, or ``IntegrityError`` for a wrong
        checksum; ``into`` is then partly written.  After it has returned, raised or been cancelled nothing is written
        to ``into`` any more.
        """
        under_way: deque[_Wanted] = deque()
        try:
            position = 0
            while position < into.nbytes or under_way:
                while position < into.nbytes and len(under_way) < _WINDOW:
                    piece = into[position : position + MAX_PAYLOAD]
                    under_way.append(self._ask(kind, key, offset + position, piece))
                    position += piece.nbytes
                await self._wait(under_way[0].done)
                under_way.popleft()
        finally:
            for wanted in under_way:
                self._abandon(wanted)

    def _ask(self, kind: str, key: int, offset: int, into: memoryview) -> _Wanted:
        if self._link.closed is not None:
            raise RemoteGone(f"the link to {self._name} is gone: {self._link.closed}")
        wanted = _Wanted(self._next, into, self._loop.create_future())
        self._next += 1
        self._wanted.append(wanted)
        self._link.send(
            encode(Kind.FETCH, round=wanted.number, extra=_REQUEST.pack(key, offset, into.nbytes) + kind.encode())
        )
        return wanted

    async def _wait(self, done: asyncio.Future[None]) -> None:
        """Wait for an answer as long as bytes keep coming."""
        asked = self._loop.time()
        while not done.done():
            left = max(asked, self._link.last_received) + self._silence - self._loop.time()
            if left <= 0:
                raise RemoteGone(f"{self._name} sent nothing for {self._silence:g} s")
            await asyncio.wait((done,), timeout=left)
        done.result()

    def _abandon(self, wanted: _Wanted) -> None:
        """Its memory is the caller's again: what still comes for it is thrown away."""
        if wanted is self._receiving:
            self._link.protocol.divert()
            self._receiving = None
        wanted.into = memoryview(b"")
        if not wanted.done.done():
            wanted.done.cancel()
        elif not wanted.done.cancelled():
            wanted.done.exception()  # the first failure was raised; this one is the same story

    def _lost(self, reason: str) -> None:
        self._receiving = None
        while self._wanted:
            self._settle(self._wanted.popleft(), RemoteGone(f"the link to {self._name} is gone: {reason}"))

    @staticmethod
    def _settle(wanted: _Wanted, error: Exception | None) -> None:
        if not wanted.done.done():
            if error is None:
                wanted.done.set_result(None)
            else:
                wanted.done.set_exception(error)

    # what the link's protocol calls

    def admit(self, header: Header, extra: bytes) -> memoryview | Verdict:
        wanted = self._wanted[0] if self._wanted else None
        if wanted is None or header.round != wanted.number or header.kind not in (Kind.FETCHED, Kind.FAILED):
            self._link.abort(f"an answer that nobody asked for ({header.kind.name} {header.round})")
            return Verdict.DRAIN
        self._wanted.popleft()
        if header.kind is Kind.FAILED:
            reason = extra[:_MAX_REASON].decode("utf-8", "replace")
            error = _REFUSALS.get(header.segment, NoSuchResource)
            self._settle(wanted, error(f"{self._name} cannot send it: {reason}"))
            return Verdict.DRAIN
        if wanted.done.done():
            return Verdict.DRAIN
        if header.payload != wanted.into.nbytes:
            self._settle(wanted, OutOfRange(f"{self._name} sent {header.payload} bytes, not {wanted.into.nbytes}"))
            return Verdict.DRAIN
        self._receiving = wanted
        return wanted.into

    def received(self, header: Header) -> None:
        wanted, self._receiving = self._receiving, None
        if wanted is not None:
            self._settle(wanted, None)

    def corrupt(self, header: Header) -> None:
        wanted, self._receiving = self._receiving, None
        if wanted is not None:
            self._settle(wanted, IntegrityError(f"{self._name} sent bytes with a wrong checksum"))
