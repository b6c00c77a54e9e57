"""All links of one peer: the data port, tickets, accepted and opened connections."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable

import structlog

from lepton_p2p.errors import AddressError, Closed, InsecureRefused, PortInUse, ProtocolMismatch, SwarmUnreachable
from lepton_p2p.identity import PeerId, join_address, short
from lepton_p2p.transport.links import arena
from lepton_p2p.transport.links.arena import Lender
from lepton_p2p.transport.links.door import Door, hand_in
from lepton_p2p.transport.links.frames import MAX_PAYLOAD, FrameError, Kind, encode
from lepton_p2p.transport.links.handshake import Handshake, greeting, proves
from lepton_p2p.transport.links.keys import Bond, KeyShare, LinkKeys
from lepton_p2p.transport.links.link import Link, Purpose
from lepton_p2p.transport.links.seal import Opener, Sealer
from lepton_p2p.transport.links.strangers import StrangerLog, WaitingRoom
from lepton_p2p.transport.links.tickets import Claim, Ticket, TicketBook
from lepton_p2p.transport.links.welcome import Welcome

_log = structlog.get_logger(__name__)

_BACKLOG = 128
"""Connections that the kernel accepts before this process does: about so many can come in one turn of the loop."""
_LINKS_EACH = {Purpose.RING: 8, Purpose.FETCH: 32, Purpose.PUSH: 8}
"""Links of one purpose that one peer may have open (all clients together count as one)."""

_ONE_SEALS = "{} seals its links, the other side does not: start all peers of a swarm with credentials, or none"

Acceptor = Callable[[Link], None]
"""Takes over an accepted link: sets its handler before the next byte is read."""


class LinkHub:
    """The data plane of the peer ``me`` (None: a client): listens on ``host:port`` (0: any free port) and opens links.

    sealed: every link, opened or accepted, is sealed, and there are no others; keys are agreed in the call that asks
    for a ticket, which must be mutually authenticated (see :meth:`propose`).  swarm: what both ends call it; part of
    what keys are made from.
    handshake_timeout: seconds within which an accepted connection must show its ticket, an opened one must be
    welcomed; short ones defeat strangers that connect and say nothing, long ones tolerate slow networks.
    heartbeat: seconds of silence after which the sender of a ring link says that it is alive.
    max_chunk: bound on one payload, bytes.  max_pending, max_pending_each: connections that have not shown a ticket
    yet, in all and from one address (see ``WaitingRoom``).  share_memory: use memory shared with peers on this machine
    for the payloads of ring links; both ends must want it.
    """

    def __init__(
        self,
        me: PeerId | None,
        *,
        host: str,
        port: int = 0,
        swarm: str = "",
        sealed: bool = False,
        handshake_timeout: float = 5.0,
        heartbeat: float = 0.25,
        max_chunk: int = MAX_PAYLOAD,
        max_pending: int = 256,
        max_pending_each: int = 160,
        share_memory: bool = True,
    ) -> None:
        self.me = me
        self.sealed = sealed
        self._swarm = swarm
        self._host, self._port = host, port
        self._timeout = handshake_timeout
        self._heartbeat = heartbeat
        self._max_chunk = max_chunk
        self._share_memory = share_memory
        self._door: Door | None = None
        self._acceptors: dict[Purpose, Acceptor] = {}
        self._links: set[Link] = set()
        self._pending: WaitingRoom[Handshake] = WaitingRoom(total=max_pending, each=max_pending_each)
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
            self._server = await loop.create_server(self._handshake, self._host, self._port, backlog=_BACKLOG)
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

    def propose(self) -> KeyShare | None:
        """This side's half of the keys of a link that it wants to open; None: links are open.

        Its public part goes to the other side with the request for a ticket, the whole of it to :meth:`open`.
        """
        return KeyShare() if self.sealed else None

    def issue_ticket(self, remote: PeerId | None, purpose: Purpose, share: bytes = b"") -> Ticket:
        """A ticket for ``remote`` (None: a client), whom the control plane knows to be who it says.

        ``share``: the remote's half of the keys.  :class:`InsecureRefused` if only one of the two sides seals its
        links, :class:`ProtocolMismatch` for a share that is none.
        """
        if bool(share) is not self.sealed:
            raise InsecureRefused(_ONE_SEALS.format("this peer" if self.sealed else "the caller"))
        token = self._tickets.new_token()
        if not self.sealed:
            return Ticket(self._port, self._tickets.issue(Claim(remote, purpose), token))
        own = KeyShare()
        try:
            keys = own.as_acceptor(share, self._bond(remote, self.me, purpose, token))
        except ValueError as error:
            raise ProtocolMismatch(f"no keys for a link can be made: {error}") from None
        return Ticket(self._port, self._tickets.issue(Claim(remote, purpose, keys), token), own.public)

    async def open(
        self, remote: PeerId, host: str, ticket: Ticket, purpose: Purpose, share: KeyShare | None = None
    ) -> Link:
        """Connect to ``remote``'s data port with the ticket that it issued for this side's ``share``.

        Raises :class:`SwarmUnreachable` (refused, closed, no answer in time), :class:`AddressError` (``host``
        does not resolve), :class:`InsecureRefused` (only one of the two sides seals its links),
        :class:`ProtocolMismatch` (no keys can be made of its share), :class:`Closed` (this hub is closed).
        """
        if self._closed:
            raise Closed("the data plane is closed")
        where = join_address(host, ticket.port)
        keys = self._keys(remote, ticket, purpose, share)
        seal = None if keys is None else keys.connector()
        hello = greeting(ticket.token, None if seal is None else seal[0])
        heartbeat = self._heartbeat if purpose is Purpose.RING else None
        link = self._new_link(remote, purpose, heartbeat=heartbeat, seal=seal)
        answer = Welcome(link)
        link.handler = answer
        link.watch(answer.lost)
        try:
            async with asyncio.timeout(self._timeout):
                loop = asyncio.get_running_loop()
                transport, _ = await loop.create_connection(lambda: link.protocol, host, ticket.port)
                if self._closed:
                    transport.abort()
                    raise Closed("the data plane is closed")
                transport.write(hello)
                link.attach(transport)
                await answer.came
                self._share(link, answer.offer)
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

    def expel(self, remote: PeerId | None, reason: str) -> None:
        """Close the links with ``remote`` (None: with all clients) and void its tickets, at once."""
        self._tickets.void(remote)
        for link in tuple(self._links):
            if link.remote == remote:
                link.abort(reason)

    async def close(self) -> None:
        """Stop listening and close every link at once; what is still buffered is lost (wait for it before)."""
        self._closed = True
        if self._server is not None:
            self._server.close()
            self._tickets.clear()
        for handshake in self._pending:
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

    def _bond(self, connector: PeerId | None, acceptor: PeerId | None, purpose: Purpose, token: bytes) -> Bond:
        assert acceptor is not None, "a client issues no tickets"
        return Bond(self._swarm, connector, acceptor, purpose, token)

    def _keys(self, remote: PeerId, ticket: Ticket, purpose: Purpose, share: KeyShare | None) -> LinkKeys | None:
        """The keys of a link to be opened; None: it is an open one, and both sides want that."""
        if bool(ticket.share) is not self.sealed:
            raise InsecureRefused(_ONE_SEALS.format("this peer" if self.sealed else f"peer {short(remote)}"))
        if not self.sealed:
            return None
        assert share is not None, "a sealed link is opened with the share that was proposed"
        try:
            return share.as_connector(ticket.share, self._bond(self.me, remote, purpose, ticket.token))
        except ValueError as error:
            raise ProtocolMismatch(f"no keys for a link to peer {short(remote)} can be made: {error}") from None

    def _new_link(
        self,
        remote: PeerId | None,
        purpose: Purpose,
        *,
        heartbeat: float | None = None,
        seal: tuple[Sealer, Opener] | None = None,
    ) -> Link:
        link = Link(remote, purpose, heartbeat=heartbeat, max_payload=self._max_chunk, seal=seal)
        self._links.add(link)
        self._empty.clear()
        link.watch(lambda reason: self._forget(link))
        return link

    def _forget(self, link: Link) -> None:
        self._links.discard(link)
        if not self._links:
            self._empty.set()

    def _handshake(self) -> Handshake:
        return Handshake(
            timeout=self._timeout,
            sealed=self.sealed,
            on_start=self._arrived,
            on_token=self._identified,
            on_end=self._ended,
        )

    def _arrived(self, handshake: Handshake) -> None:
        crowded_out = self._pending.enter(handshake, handshake.address)
        if crowded_out is not None:
            crowded_out.reject("too many connections had not identified themselves")

    def _ended(self, handshake: Handshake, reason: str) -> None:
        self._pending.leave(handshake)
        if reason and not self._closed:
            self._strangers.reject(handshake.address, reason)

    def _identified(self, handshake: Handshake, token: bytes, proof: bytes) -> None:
        claim = self._tickets.redeem(token)
        if claim is None:
            handshake.reject("its ticket is unknown, used or expired")
            return
        seal = None if claim.keys is None else claim.keys.acceptor()
        acceptor = self._acceptors.get(claim.purpose)
        problem = ""
        if seal is not None and not proves(token, proof, seal[1]):
            problem = "it does not have the keys that belong to its ticket"
        elif acceptor is None or self._closed:
            problem = "nobody serves its purpose"
        elif self._count(claim) >= _LINKS_EACH[claim.purpose]:
            problem = f"its peer has {_LINKS_EACH[claim.purpose]} {claim.purpose.name} links already"
        if problem or acceptor is None:
            claim.drop()
            handshake.reject(problem)
            return
        transport = handshake.take_over()
        link = self._new_link(claim.remote, claim.purpose, seal=seal)
        link.protocol.connection_made(transport)
        transport.set_protocol(link.protocol)
        link.attach(transport)
        self._welcome(link)
        acceptor(link)

    def _count(self, claim: Claim) -> int:
        """How many links the claimant has for the same purpose; one that it opens itself or that was accepted."""
        return sum(link.remote == claim.remote and link.purpose is claim.purpose for link in self._links)
