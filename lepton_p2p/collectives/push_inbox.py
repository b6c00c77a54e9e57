"""Messages from single partners, outside of rounds: the receiving half (``push.py`` is the sending one)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import structlog

from lepton_p2p.collectives.push import PATIENCE, Fate
from lepton_p2p.identity import PeerId, short
from lepton_p2p.tasks import OwnedTasks
from lepton_p2p.transport.links.allowance import Allowance
from lepton_p2p.transport.links.frames import Header, Kind, encode
from lepton_p2p.transport.links.link import Link
from lepton_p2p.transport.links.protocol import Verdict

Handler = Callable[[PeerId, bytes, memoryview], bool]
"""``(sender, header, payload) -> taken``: called on a thread; the payload is valid until it returns."""

BUFFERS = 4
"""Payloads that are received or handled at a time; the senders of more are held back, their links not read."""

_USELESS = (4096, 100.0)
"""Parts of refused pushes, at once and per second: what can be on its way before the sender knows."""

_log = structlog.get_logger(__name__)


class _Buffers:
    """At most ``limit`` buffers in use, made when they are first needed; only on the loop.

    Fresh memory is slow, hence buffers of the size used last are kept.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._idle: list[memoryview] = []
        self._used = 0

    def take(self, nbytes: int) -> memoryview | None:
        """One of ``nbytes``, with undefined content; None if too many are in use."""
        if self._used == self._limit:
            return None
        self._idle = [buffer for buffer in self._idle if buffer.nbytes == nbytes]
        # Not a bytearray: to fill one with zeros would stop the loop, for a tenth of a second per 100 MB.
        buffer = self._idle.pop() if self._idle else np.empty(nbytes, dtype=np.uint8).data
        self._used += 1
        return buffer

    def give(self, buffer: memoryview) -> None:
        self._used -= 1
        self._idle.append(buffer)

    @property
    def free(self) -> bool:
        return self._used < self._limit


@dataclass(slots=True, eq=False)
class _Message:
    """A push that is being received: ``filled`` bytes of ``buffer`` are there."""

    number: int
    header: bytes
    buffer: memoryview
    filled: int = 0


class PushInbox:
    """Receives pushes straight into preallocated memory and hands them to a handler.

    Nothing is allocated on the word of a sender: payloads have the one size that this side expects, or none.
    Made on the loop; ``tasks`` owns the calls of the handler.  ``buffers``: how many payloads of the expected size
    there may be in memory; few save memory, more let fast senders pass slow ones.  ``patience``: seconds that a sender
    may be silent within a push.
    """

    def __init__(self, tasks: OwnedTasks, *, buffers: int = BUFFERS, patience: float = PATIENCE) -> None:
        self._handler: Handler | None = None
        self._expected = 0
        self._tasks = tasks
        self._patience = patience
        self._buffers = _Buffers(buffers)
        self._inbound: dict[PeerId, _Inbound] = {}
        self._held: dict[_Inbound, None] = {}
        self._closed = False

    def expect(self, nbytes: int) -> None:
        """Take payloads of exactly ``nbytes`` (and empty ones) from now on; from any thread."""
        if nbytes < 0:
            raise ValueError(f"a payload has at least 0 bytes, not {nbytes}")
        self._expected = nbytes

    def serve(self, handler: Handler) -> None:
        """Give pushes to ``handler``; before that senders are told that there is nobody.  From any thread."""
        self._handler = handler

    @property
    def handler(self) -> Handler | None:
        """Who takes pushes now."""
        return None if self._closed else self._handler

    def accept(self, link: Link) -> None:
        """Take over an accepted push link; the acceptor for ``LinkHub.serve(Purpose.PUSH, ...)``."""
        remote = link.remote
        if remote is None:
            link.abort("a push link must come from a peer")
            return
        old = self._inbound.get(remote)
        self._inbound[remote] = inbound = _Inbound(self, link, remote)
        link.handler = inbound
        link.watch(inbound.lost)
        if old is not None:
            old.link.abort("replaced by a newer link from the same peer")

    def drop(self, peer: PeerId, reason: str) -> None:
        """Close the link from ``peer``; what came in completely is still handled."""
        inbound = self._inbound.get(peer)
        if inbound is not None:
            inbound.link.abort(reason)

    def close(self) -> None:
        """Take nothing any more and close all links; running calls of the handler end, their answers are lost."""
        self._closed = True
        for peer in tuple(self._inbound):
            self.drop(peer, "this peer is closing")

    def _give(self, buffer: memoryview) -> None:
        self._buffers.give(buffer)
        # One that is resumed may turn out to be closed and take nothing, so go on while there is a buffer.
        while self._held and self._buffers.free:
            first = next(iter(self._held))
            del self._held[first]
            first.link.protocol.resume()

    def _forget(self, inbound: _Inbound) -> None:
        self._held.pop(inbound, None)
        if self._inbound.get(inbound.remote) is inbound:
            del self._inbound[inbound.remote]


class _Inbound:
    """The handler of one accepted push link."""

    def __init__(self, inbox: PushInbox, link: Link, remote: PeerId) -> None:
        self.link, self.remote = link, remote
        self._inbox = inbox
        self._loop = asyncio.get_running_loop()
        self._number = 0
        self._refused = 0
        self._message: _Message | None = None
        self._handling = False
        self._timer: asyncio.TimerHandle | None = None
        self._useless = Allowance(*_USELESS)
        # One who does not read the answers is not listened to: it is offered again when the socket has taken all.
        link.on_writable = link.protocol.resume

    def admit(self, header: Header, extra: bytes) -> memoryview | Verdict:
        if header.kind is not Kind.PUSH:
            return self._violation(f"it sent {header.kind.name}")
        if header.round == self._refused:
            if not self._useless.spend(self._loop.time()):
                return self._violation("it goes on with a push that was refused")
            return Verdict.DRAIN  # was on its way before the sender knew
        if header.round > self._number and header.tag == 0:
            return self._begin(header, extra)
        message = self._message
        if message is None or header.round != message.number or header.tag != message.filled or extra:
            return self._violation("it sent a part of a push that is not the next one")
        if not 0 < header.payload <= message.buffer.nbytes - message.filled:
            return self._violation("it sent a part that is empty or reaches past the end of its push")
        return message.buffer[message.filled : message.filled + header.payload]

    def received(self, header: Header) -> None:
        message = self._message
        assert message is not None
        message.filled += header.payload
        handler = self._inbox.handler
        if message.filled < message.buffer.nbytes:
            return
        self._message = None
        self._stop_timer()
        if handler is None:  # this peer is closing, and so is the link
            self._release(message)
            return
        self._handling = True
        self._inbox._tasks.spawn(self._handle(handler, message), f"handle a push of {short(self.remote)}")

    def corrupt(self, header: Header) -> None:
        self._violation("a part of a push has a wrong checksum")

    def lost(self, reason: str) -> None:
        """The link is gone: nothing is written to the buffer any more."""
        self._stop_timer()
        message, self._message = self._message, None
        self._inbox._forget(self)
        if message is not None:
            self._release(message)

    def _begin(self, header: Header, extra: bytes) -> memoryview | Verdict:
        if self.link.buffered:
            return Verdict.HOLD
        total = header.epoch
        if self._message is not None or self._handling:
            return self._violation("it began a push before the last one was answered")
        if header.payload > total or (total and not header.payload):
            return self._violation("it began a push whose lengths are not possible")
        if self._inbox.handler is None:
            self._number = self._refused = header.round
            self._answer(header.round, Fate.NOBODY)
            return Verdict.DRAIN
        buffer = memoryview(b"")
        if total:
            expected = self._inbox._expected
            if total != expected:
                return self._violation(
                    f"it pushed {total} bytes, {expected or 'nothing'} expected: is its job another?"
                )
            free = self._inbox._buffers.take(total)
            if free is None:
                self._inbox._held[self] = None
                return Verdict.HOLD
            buffer = free
            self._timer = self._loop.call_later(self._inbox._patience, self._check)
        self._number = header.round
        self._message = _Message(header.round, extra, buffer)
        return buffer[: header.payload]

    async def _handle(self, handler: Handler, message: _Message) -> None:
        try:
            taken = await asyncio.to_thread(handler, self.remote, message.header, message.buffer.toreadonly())
            fate = Fate.TAKEN if taken else Fate.REFUSED
        except Exception as error:
            _log.error(
                "a push could not be handled; this is a bug, please report it", peer=short(self.remote), exc_info=error
            )
            fate = Fate.FAILED
        # Not if cancelled: the thread may be at it still, so that its buffer is not used again.
        self._handling = False
        self._release(message)
        self._answer(message.number, fate)

    def _answer(self, number: int, fate: Fate) -> None:
        self.link.send(encode(Kind.PUSHED, round=number, phase=fate))

    def _release(self, message: _Message) -> None:
        if message.buffer.nbytes:
            self._inbox._give(message.buffer)

    def _violation(self, what: str) -> Verdict:
        _log.warning("closed a link for pushes", peer=short(self.remote), reason=what)
        self.link.abort(what)
        return Verdict.DRAIN

    def _check(self) -> None:
        patience = self._inbox._patience
        idle = self._loop.time() - self.link.last_received
        if idle >= patience:
            self._violation(f"it was silent for {patience:g} s within a push")
        else:
            self._timer = self._loop.call_later(patience - idle, self._check)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
