"""All links of one peer: the data port, tickets, accepted and opened connections."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable

import structlog

from lepton_p2p.errors import AddressError, Closed, PortInUse, SwarmUnreachable
from lepton_p2p.identity import PeerId, join_address, short
from lepton_p2p.transport.links import arena
from lepton_p2p.transport.links.arena import Lender
from lepton_p2p.transport.links.door import Door, hand_in
from lepton_p2p.transport.links.frames import MAX_PAYLOAD, FrameError, Header, Kind, encode
from lepton_p2p.transport.links.handshake import PREAMBLE, Handshake
from lepton_p2p.transport.links.link import Link, Purpose, Unexpected
from lepton_p2p.transport.links.protocol import Verdict
from lepton_p2p.transport.links.strangers import StrangerLog
from lepton_p2p.transport.links.tickets import Claim, Ticket, TicketBook

_log = structlog.get_logger(__name__)

Acceptor = Callable[[Link], None]
"""Takes over an accepted link: sets its handler before the next byte is read."""


class _Greeting:
    """The connector's handler until the acceptor has said WELCOME."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.offer = b""
        self.welcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def admit(self, header: Header, extra: bytes) -> Verdict:
        if header.kind is Kind.WELCOME and not header.payload:
            self._link.handler = Unexpected(self._link)
            self.offer = extra
            if not self.welcome.done():
                self.welcome.set_result(None)
        else:
            self._link.abort(f"expected WELCOME, got {header.kind.name}")
        return Verdict.DRAIN

    def received(self, header: Header) -> None:  # pragma: no cover - admit never gives memory
        raise AssertionError("unreachable")

    corrupt = received

    def lost(self, reason: str) -> None:
        if not self.welcome.done():
            self.welcome.set_exception(SwarmUnreachable(f"the link was refused: {reason}"))
            self.welcome.exception()  # counts as looked at: nobody awaits it if connecting itself failed


class LinkHub:
    """The data plane of the peer ``me``: listens on ``host:port`` (0: any free port) and opens links.

    handshake_timeout: seconds within which an accepted connection must show its ticket, an opened one must be
    welcomed; short ones defeat strangers that connect and say nothing, long ones tolerate slow networks.
    heartbeat: seconds of silence after which the sender of a ring link says that it is alive.
    max_chunk: bound on one payload, bytes.  max_pending: connections that have not shown a ticket yet; the oldest
    is closed when there are more.  share_memory: use memory shared with peers on this machine for the payloads of ring
    links; both ends must want it.
    """

    def __init__(
        self,
        me: PeerId,
        *,
        host: str,
        port: int = 0,
        handshake_timeout: float = 5.0,
        heartbeat: float = 0.25,
        max_chunk: int = MAX_PAYLOAD,
        max_pending: int = 64,
        share_memory: bool = True,
    ) -> None:
        self.me = me
        self._host, self._port = host, port
        self._timeout = handshake_timeout
        self._heartbeat = heartbeat
        self._max_chunk = max_chunk
        self._max_pending = max_pending
        self._share_memory = share_memory
        self._door: Door | None = None
        self._acceptors: dict[Purpose, Acceptor] = {}
        self._links: set[Link] = set()
        self._pending: dict[Handshake, None] = {}
        self._server: asyncio.Server | None = None
        self._closed = False
        self._empty = asyncio.Event()
        self._empty.set()

    async def start(self) -> None:
        """Listen; raises :class:`PortInUse` or :class:`AddressError`."""
        loop = asyncio.get_running_loop()
        self._tickets = TicketBook(lifetime=2 * self._timeout, clock=loop.time)
        self._strangers = StrangerLog(loop.time)
        try:
            self._server = await loop.create_server(self._handshake, self._host, self._port, backlog=128)
        except socket.gaierror:
            raise AddressError(f"cannot listen on {self._host!r}: this host name does not resolve") from None
        except OSError as error:
            where = join_address(self._host, self._port)
            if error.errno == errno.EADDRINUSE:
                raise PortInUse(f"{where} is in use by another process: choose another port, or 0 for any") from None
            raise AddressError(f"cannot listen on {where}: {error.strerror or error}") from None
        self._port = self._server.sockets[0].getsockname()[1]
        if self._share_memory:
            try:
                self._door = Door()
            except (OSError, AttributeError) as error:
                _log.info("this system has no memory to share; tensors go through sockets", why=str(error))

    @property
    def port(self) -> int:
        """The data port: as asked for, or what the system chose once :meth:`start` is done."""
        return self._port

    @property
    def rejected(self) -> int:
        """Connections that were closed because they showed no valid ticket."""
        return self._strangers.rejected

    @property
    def links(self) -> tuple[Link, ...]:
        """The links that are open now."""
        return tuple(self._links)

    def serve(self, purpose: Purpose, acceptor: Acceptor) -> None:
        """Give accepted links of ``purpose`` to ``acceptor``; without one they are refused."""
        self._acceptors[purpose] = acceptor

    def issue_ticket(self, remote: PeerId | None, purpose: Purpose) -> Ticket:
        """A ticket for ``remote`` (None: a client), whom the control plane knows to be who it says."""
        return Ticket(self._port, self._tickets.issue(Claim(remote, purpose)))

    async def open(self, remote: PeerId, host: str, ticket: Ticket, purpose: Purpose) -> Link:
        """Connect to ``remote``'s data port with the ticket that it issued.

        Raises :class:`SwarmUnreachable` (refused, closed, no answer in time), :class:`AddressError` (``host``
        does not resolve), :class:`Closed` (this hub is closed).
        """
        if self._closed:
            raise Closed("the data plane is closed")
        where = join_address(host, ticket.port)
        link = self._new_link(remote, purpose, heartbeat=self._heartbeat if purpose is Purpose.RING else None)
        greeting = _Greeting(link)
        link.handler = greeting
        link.watch(greeting.lost)
        try:
            async with asyncio.timeout(self._timeout):
                loop = asyncio.get_running_loop()
                transport, _ = await loop.create_connection(lambda: link.protocol, host, ticket.port)
                if self._closed:
                    transport.abort()
                    raise Closed("the data plane is closed")
                transport.write(PREAMBLE + ticket.token)
                link.attach(transport)
                await greeting.welcome
                self._share(link, greeting.offer)
        except TimeoutError:
            link.abort(f"no welcome within {self._timeout:g} s")
            raise SwarmUnreachable(
                f"peer {short(remote)} at {where} did not open a link within {self._timeout:g} s"
            ) from None
        except socket.gaierror:
            link.abort("host name does not resolve")
            raise AddressError(f"{host!r} does not resolve") from None
        except OSError as error:
            link.abort("not connected")
            raise SwarmUnreachable(
                f"peer {short(remote)} refuses links at {where}: {error.strerror or error}"
            ) from None
        except BaseException:
            link.abort("not opened")
            raise
        return link

    async def close(self) -> None:
        """Stop listening and close every link at once; what is still buffered is lost (wait for it before)."""
        self._closed = True
        if self._server is not None:
            self._server.close()
        for handshake in tuple(self._pending):
            handshake.reject("this peer is closing")
        for link in tuple(self._links):
            link.abort("this peer is closing")
        await self._empty.wait()
        if self._door is not None:
            self._door.close()
            self._door = None

    def _share(self, link: Link, offer: bytes) -> None:
        """Hand in memory for the payloads of ``link``, if that is wanted and possible."""
        if not offer or not self._share_memory:
            return
        fd = -1
        try:
            fd = arena.create()
            lender = Lender(os.dup(fd))
            if hand_in(offer, fd):
                link.share(lender, lambda memory: hand_in(offer, memory))
        except (OSError, FrameError) as error:
            _log.info("no shared memory to be had; tensors go through the socket", why=str(error))
        finally:
            if fd >= 0:
                os.close(fd)

    def _share_no_more(self) -> None:
        """What neighbours hand in cannot be mapped: the next links do without."""
        if self._share_memory:
            self._share_memory = False
            _log.warning("this process has no room for shared memory; from now on tensors go through sockets")

    def _welcome(self, link: Link) -> None:
        door, offer = self._door, b""
        if door is not None and self._share_memory and link.purpose is Purpose.RING:
            offer = door.offer()
            link.on_unmappable = self._share_no_more
            link.expect_memory(lambda: door.collect(offer))
            link.watch(lambda reason: door.withdraw(offer))
        link.send(encode(Kind.WELCOME, extra=offer))

    def _new_link(self, remote: PeerId | None, purpose: Purpose, *, heartbeat: float | None) -> Link:
        link = Link(remote, purpose, heartbeat=heartbeat, max_payload=self._max_chunk)
        self._links.add(link)
        self._empty.clear()
        link.watch(lambda reason: self._forget(link))
        return link

    def _forget(self, link: Link) -> None:
        self._links.discard(link)
        if not self._links:
            self._empty.set()

    def _handshake(self) -> Handshake:
        return Handshake(timeout=self._timeout, on_start=self._arrived, on_token=self._identified, on_end=self._ended)

    def _arrived(self, handshake: Handshake) -> None:
        self._pending[handshake] = None
        if len(self._pending) > self._max_pending:
            next(iter(self._pending)).reject(f"more than {self._max_pending} connections had not identified themselves")

    def _ended(self, handshake: Handshake, reason: str) -> None:
        self._pending.pop(handshake, None)
        if reason and not self._closed:
            self._strangers.reject(handshake.address, reason)

    def _identified(self, handshake: Handshake, token: bytes) -> None:
        claim = self._tickets.redeem(token)
        acceptor = self._acceptors.get(claim.purpose) if claim is not None else None
        if claim is None or acceptor is None or self._closed:
            handshake.reject("its ticket is unknown, used or expired" if claim is None else "nobody serves its purpose")
            return
        transport = handshake.take_over()
        link = self._new_link(claim.remote, claim.purpose, heartbeat=None)
        link.protocol.connection_made(transport)
        transport.set_protocol(link.protocol)
        link.attach(transport)
        self._welcome(link)
        acceptor(link)
