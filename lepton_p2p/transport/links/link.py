"""One authenticated connection of the data plane."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from lepton_p2p.identity import PeerId
from lepton_p2p.transport.links.arena import Borrower, Lender
from lepton_p2p.transport.links.frames import HEADER_BYTES, MAX_PAYLOAD, FrameError, Header, Kind, encode
from lepton_p2p.transport.links.memory import Unmappable
from lepton_p2p.transport.links.outlet import OpenOutlet, Outlet, SealedOutlet
from lepton_p2p.transport.links.protocol import FrameHandler, FrameProtocol, Verdict
from lepton_p2p.transport.links.purpose import Purpose
from lepton_p2p.transport.links.seal import Opener, Sealer
from lepton_p2p.transport.links.tuning import round_trip, tune

_SMALL = 16 << 10
"""Payloads up to this size go through the socket also where memory is shared: cheaper than a slot."""
_UNREAD = 64 << 10
"""Bytes of answers that wait for one who does not read: there are never more than a few slots to be given back."""
_RETURNED = encode(Kind.RETURNED)


@dataclass(frozen=True, slots=True)
class LinkStatistics:
    """Counters since the link was opened; bytes include headers; ``rtt`` is the kernel's estimate in seconds."""

    bytes_sent: int
    bytes_received: int
    frames_sent: int
    frames_received: int
    rtt: float | None


class Unexpected:
    """The handler of a link on which nothing should arrive: says so and closes it."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def admit(self, header: Header, extra: bytes) -> Verdict:
        self._link.abort(f"the remote sent {header.kind.name}, nothing was expected")
        return Verdict.DRAIN

    def received(self, header: Header) -> None:  # pragma: no cover - admit never gives memory
        raise AssertionError("unreachable")

    corrupt = received


class Link:
    """A TCP connection to ``remote`` (None: a client that is no peer), used for one ``purpose``.

    Sending never blocks and never copies payloads above 16 KiB: memory handed to :meth:`send` must stay as it is until
    :meth:`drained`, or until what the remote answered proves that it arrived.  (What the socket did not take at once
    is kept by reference; bytes changed too early reach the remote with a checksum that no longer fits, so that they
    are refused there, never used.)  If ``heartbeat`` is given, a HEARTBEAT goes out whenever nothing else did for so
    many seconds.  With the two ends of a ``seal`` everything in both directions is sealed (see ``seal.py``), except
    what lies in shared memory.

    Between two peers on one machine large payloads can go through memory that both share: :meth:`slot`, fill it,
    :meth:`send_lent`.  Where there is no such memory, :meth:`slot` is always None.
    """

    def __init__(
        self,
        remote: PeerId | None,
        purpose: Purpose,
        *,
        heartbeat: float | None = None,
        max_payload: int = MAX_PAYLOAD,
        seal: tuple[Sealer, Opener] | None = None,
    ) -> None:
        self.remote = remote
        self.purpose = purpose
        self.sealed = seal is not None
        """Whether nobody between the two ends can read or change what it carries."""
        self._sealer = None if seal is None else seal[0]
        self.on_writable: Callable[[], None] | None = None
        """Called each time the link may have become :attr:`ready`."""
        self.on_unmappable: Callable[[], None] | None = None
        """Called if this process has no room for memory that the remote handed in; the link is closed then."""
        self.near = False
        """Whether the remote is on this machine or a few hundred microseconds away."""
        self.protocol = FrameProtocol(
            Unexpected(self),
            on_lost=self._lost,
            on_drained=self._drained,
            on_control=self._control,
            max_payload=max_payload,
            max_extra=purpose.max_extra,
            opener=None if seal is None else seal[1],
        )
        self._lender: Lender | None = None
        self._collect: Callable[[], int | None] | None = None
        self._hand_in: Callable[[int], bool] | None = None
        self._transport: asyncio.Transport | None = None
        self._outlet: Outlet | None = None
        self._closing = False
        self._reason: str | None = None
        self._watchers: list[Callable[[str], None]] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._heartbeat = heartbeat
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._last_sent = self._loop.time()
        self._bytes_sent = 0
        self._frames_sent = 0

    def attach(self, transport: asyncio.BaseTransport) -> None:
        """Begin on a connected ``transport`` whose protocol is :attr:`protocol`."""
        self._transport = cast(asyncio.Transport, transport)
        # With no allowance every write goes to the socket at once, and pause/resume tell exactly when it is drained.
        self._transport.set_write_buffer_limits(high=0)
        sealer = self._sealer
        self._outlet = OpenOutlet(self._transport) if sealer is None else SealedOutlet(self._transport, sealer)
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            self.near = tune(sock)
        if self._heartbeat is not None:
            self._timer = self._loop.call_later(self._heartbeat, self._beat)

    @property
    def handler(self) -> FrameHandler:
        """Who gets the frames that arrive."""
        return self.protocol.handler

    @handler.setter
    def handler(self, handler: FrameHandler) -> None:
        self.protocol.handler = handler

    @property
    def closed(self) -> str | None:
        """Why the link is gone, in one line; None while it is usable."""
        return self._reason

    @property
    def last_received(self) -> float:
        """The loop's time when the last byte came."""
        return self.protocol.last_received

    @property
    def buffered(self) -> int:
        """Bytes that the socket has not taken yet; memory given to :meth:`send` is referenced while this is not 0."""
        return 0 if self._outlet is None or self._reason is not None else self._outlet.buffered

    @property
    def ready(self) -> bool:
        """Whether a payload that is sent now leaves at once: nothing is buffered, and a slot (if any) is free."""
        return not self.buffered and (self._lender is None or self._lender.free)

    def slot(self, nbytes: int) -> memoryview | None:
        """Shared memory for a payload of ``nbytes``, to be filled and sent by :meth:`send_lent` before all else."""
        lender = self._lender
        return None if lender is None or nbytes <= _SMALL or not lender.free else lender.slot(nbytes)

    def send_lent(self, head: bytes, nbytes: int) -> None:
        """Send the ``head`` of a LENT frame whose payload of ``nbytes`` is in what :meth:`slot` returned last."""
        assert self._lender is not None
        self._lender.lend()
        self._bytes_sent += nbytes
        self.send(head)

    def share(self, lender: Lender, hand_in: Callable[[int], bool]) -> None:
        """Use the arena of ``lender``, which was handed in, from now on; ``hand_in(fd)`` gives the remote more."""
        self.send(encode(Kind.ARENA))
        self._lender, self._hand_in = lender, hand_in

    @property
    def shares(self) -> bool:
        """Whether memory can be given to the remote."""
        return self._lender is not None

    def hand_over(self, fd: int, head: bytes) -> bool:
        """Give the memory behind ``fd`` (which stays the caller's) to the remote and say so with ``head``."""
        if self._lender is None or self._hand_in is None or not self._hand_in(fd):
            return False
        self.send(head)
        return True

    def expect_memory(self, collect: Callable[[], int | None]) -> None:
        """The remote may say that it handed in memory; ``collect()`` then finds the descriptor."""
        self._collect = collect

    def collect(self) -> int | None:
        """The descriptor that the remote handed in, now the caller's; None if there is none."""
        return self._collect() if self._collect is not None else None

    def send(self, head: bytes, payload: memoryview | None = None) -> None:
        """Send an encoded ``head`` (see ``frames.encode``) and the payload it announces; ignored on a closed link."""
        transport, outlet = self._transport, self._outlet
        if transport is None or outlet is None or self._reason is not None or self._closing or transport.is_closing():
            return
        self._bytes_sent += outlet.send(head, payload)
        self._frames_sent += 1
        self._last_sent = self._loop.time()

    async def drained(self) -> None:
        """Wait until no memory given to :meth:`send` is referenced any more: all of it sent, or the link gone."""
        while self.buffered:
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._waiting.append(waiter)
            await waiter

    def watch(self, on_lost: Callable[[str], None]) -> Callable[[], None]:
        """Call ``on_lost(reason)`` once when the link is gone (soon, if it is gone already); returns the undo."""
        if self._reason is not None:
            handle = self._loop.call_soon(on_lost, self._reason)
            return handle.cancel
        self._watchers.append(on_lost)

        def undo() -> None:
            if on_lost in self._watchers:
                self._watchers.remove(on_lost)

        return undo

    def close(self) -> None:
        """Send what is buffered, then close; watchers hear of it when it is done."""
        self._closing = True
        # What the transport itself has, it still sends; what waits for its turn to be sealed must get there first.
        if self._transport is not None and (not self.sealed or not self.buffered):
            self._transport.close()

    def abort(self, reason: str) -> None:
        """Close at once, dropping what is buffered; ``reason`` is what watchers and :attr:`closed` say."""
        self.protocol.fail(reason)
        if self._transport is None:
            self._lost(reason)

    def statistics(self) -> LinkStatistics:
        """Counters and the round-trip time now."""
        sock = self._transport.get_extra_info("socket") if self._transport and self._reason is None else None
        return LinkStatistics(
            self._bytes_sent,
            self.protocol.bytes_received,
            self._frames_sent,
            self.protocol.frames_received,
            round_trip(sock) if sock is not None else None,
        )

    def _beat(self) -> None:
        assert self._heartbeat is not None
        idle = self._loop.time() - self._last_sent
        if idle >= self._heartbeat * 0.99:
            if not self.buffered:
                self.send(encode(Kind.HEARTBEAT))
            idle = 0.0
        self._timer = self._loop.call_later(self._heartbeat - idle, self._beat)

    def _control(self, kind: Kind) -> None:
        """A frame that is not for the handler; LENT: slots have become free at this end."""
        if kind is Kind.LENT:
            if self.buffered > _UNREAD:
                raise FrameError("the remote lends memory and does not read that it gets it back")
            self.send(_RETURNED)
        elif kind is Kind.RETURNED:
            if self._lender is None:
                raise FrameError("a slot given back on a link without an arena")
            self._lender.take_back()
            if self.on_writable is not None and self.ready:
                self.on_writable()
        elif kind is Kind.ARENA:
            fd = self.collect() if self.protocol.borrower is None else None
            if fd is None:
                raise FrameError("an arena announced that nobody handed in")
            try:
                self.protocol.borrower = Borrower(fd)
            except Unmappable:
                if self.on_unmappable is not None:
                    self.on_unmappable()
                raise

    def _drained(self) -> None:
        if self._outlet is not None and self._reason is None:
            self._outlet.pump()
            if self._outlet.buffered:
                return
        if self._closing and self._transport is not None:
            self._transport.close()
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)
        if self.on_writable is not None:
            self.on_writable()

    def _lost(self, reason: str) -> None:
        if self._reason is not None:
            return
        self._reason = reason
        self._wipe()
        self._lender = self.protocol.borrower = None
        self._hand_in = self._collect = None
        if self._timer is not None:
            self._timer.cancel()
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            watcher(reason)

    def _wipe(self) -> None:
        """Forget the keys."""
        if self._outlet is not None:
            self._outlet.wipe()
        elif self._sealer is not None:
            self._sealer.wipe()
        self.protocol.wipe()


__all__ = ["HEADER_BYTES", "Link", "LinkStatistics", "Purpose", "Unexpected"]
