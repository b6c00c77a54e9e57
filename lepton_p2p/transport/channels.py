"""The control plane's callers: one typed method for each call, over a pool of channels by address."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from types import TracebackType
from typing import Final, Protocol, Self, TypeVar

import grpc

from lepton_p2p.errors import Closed, CredentialsRefused, ProtocolMismatch, Revoked, SwarmUnreachable
from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.membership.messages import Packet
from lepton_p2p.proto.lepton.v1 import (
    credentials_pb2,
    jobs_pb2,
    links_pb2,
    state_pb2,
    swarm_pb2,
)
from lepton_p2p.rounds.messages import RoundMessage
from lepton_p2p.transport.diagnosis import diagnose
from lepton_p2p.transport.faults import broke_off, from_status
from lepton_p2p.transport.links.link import Purpose
from lepton_p2p.transport.links.tickets import Ticket
from lepton_p2p.transport.metadata import REVOKED_KEY, Hello, Metadata
from lepton_p2p.transport.proof import NONCE_KEY, check_proof, new_nonce
from lepton_p2p.transport.remote import Remote
from lepton_p2p.transport.security import Security
from lepton_p2p.transport.values import (
    JobDocument,
    Manifest,
    MemberStatus,
    OfferReply,
    ResultInfo,
    StatusReport,
    SwarmEvent,
)
from lepton_p2p.transport.wire_credentials import (
    Enrolled,
    enrolled_from_wire,
    revocations_from_wire,
    revocations_to_wire,
    shown_from_wire,
)
from lepton_p2p.transport.wire_membership import packet_to_wire
from lepton_p2p.transport.wire_rounds import round_message_to_wire
from lepton_p2p.transport.wire_state import (
    job_from_wire,
    job_to_wire,
    manifest_from_wire,
    offer_reply_from_wire,
    purpose_to_wire,
    result_from_wire,
    ticket_from_wire,
)
from lepton_p2p.transport.wire_swarm import event_from_wire, members_from_wire, status_reply_from_wire

DEFAULT_TIMEOUT: Final = 5.0
"""Seconds for a call whose answer is at hand: covers connecting and a round trip on any usable network."""
MOST_SENDINGS: Final = 4
"""Of a message whose connection breaks: gRPC may put a call on a connection that has just broken before it notices."""
WEIGHTS_TIMEOUT: Final = 60.0
"""Seconds for a call that is answered at the next step boundary."""

Where = str | PeerInfo
"""An address, whoever answers there; or the one peer that shall."""
Request = TypeVar("Request", contravariant=True)
Reply = TypeVar("Reply")
ReplyOut = TypeVar("ReplyOut", covariant=True)
Value = TypeVar("Value")


class Answer(Awaitable[ReplyOut], Protocol[ReplyOut]):
    """What such a method returns."""

    async def trailing_metadata(self) -> grpc.aio.Metadata: ...


class _Call(Protocol[Request, ReplyOut]):
    """What the stubs' unary methods have in common."""

    def __call__(
        self,
        request: Request,
        /,
        *,
        timeout: float,
        metadata: tuple[tuple[str, str | bytes], ...],
        wait_for_ready: bool,
    ) -> Answer[ReplyOut]: ...


class RevocationListener(Protocol):
    """Who wants to know what other peers say about revocations; nothing of it is verified."""

    def differs(self, address: str, digest: str) -> None:
        """The peer at ``address`` knows what has this ``digest`` (perhaps the same as is known here)."""

    def shown(self, statement: bytes) -> None:
        """A call was refused because of this ``statement``."""


class Channels:
    """Calls to other peers in the name of ``me`` (None: a client that is not a member) and of ``swarm``.

    security: what is shown in TLS; without it calls are made in clear text.

    ``to`` is ``host:port``, or the peer that is meant (a :class:`PeerInfo`), which then has to prove that it answers.
    Timeouts are in seconds.  Every method raises :class:`SwarmUnreachable` (refused, gone, no answer in time, another
    peer's answer), :class:`AddressError` (does not parse or resolve), :class:`WrongSwarm`,
    :class:`ProtocolMismatch` (also for answers that are malformed), :class:`Closed`, or whatever
    :class:`LeptonError` the peer's handler raised.  Nothing is retried unless it says so, and an unreachable peer fails
    at once.
    """

    def __init__(
        self,
        *,
        swarm: str,
        me: PeerId | None = None,
        hello: Hello | None = None,
        security: Security | None = None,
    ) -> None:
        self._hello = hello or Hello.of(swarm, secured=security is not None)
        self._security = security
        self._tls = security.for_channel() if security is not None else None
        self.revocations: RevocationListener | None = None
        """Told what answers say about revocations."""
        self._me = me
        self._metadata: tuple[tuple[str, str | bytes], ...] = self._hello.to_metadata()
        self._remotes: dict[str, Remote] = {}
        self._closed = False

    async def deliver_packet(self, to: str, packet: Packet, timeout: float) -> None:
        """Hand ``packet`` to the failure detector at ``to``, over the channel that is kept for this."""
        await self._call(to, self._remote(to).membership.Deliver, packet_to_wire(packet), timeout, _nothing)

    async def deliver_round(self, to: str, message: RoundMessage, timeout: float) -> None:
        """Hand ``message`` to the agreement at ``to``; await one before the next to keep their order.

        If an open connection breaks under it, it is sent again over a new one, and may then arrive twice: a peer
        whose connections were reset must not look like a dead one, which refuses the new connection at once.
        """
        request = round_message_to_wire(message)
        for more in reversed(range(MOST_SENDINGS)):
            try:
                await self._call(to, self._remote(to).rounds.Deliver, request, timeout, _nothing)
                break
            except SwarmUnreachable as error:
                if not more or not broke_off(error):
                    raise

    async def open_link(
        self, to: Where, purpose: Purpose, *, share: bytes = b"", timeout: float = DEFAULT_TIMEOUT
    ) -> Ticket:
        """A ticket for one link to the data plane of the peer at ``to``; ``share``: see ``LinkHub.propose``."""
        request = links_pb2.OpenRequest(peer=self._me or "", purpose=purpose_to_wire(purpose), share=share)
        return await self._call(to, self._remote(to).links.Open, request, timeout, ticket_from_wire)

    async def manifest(self, to: Where, kind: str, round: int, timeout: float = DEFAULT_TIMEOUT) -> Manifest:
        """What state ``kind`` after ``round`` the peer keeps; :class:`StateLost` if none."""
        request = state_pb2.ManifestRequest(kind=kind, round=round)
        return await self._call(to, self._remote(to).state.Manifest, request, timeout, manifest_from_wire)

    async def result(self, to: Where, round: int, timeout: float = DEFAULT_TIMEOUT) -> ResultInfo:
        """The result of ``round`` as the peer keeps it; :class:`StateLost` if it does not."""
        request = state_pb2.ResultRequest(round=round)
        return await self._call(to, self._remote(to).state.Result, request, timeout, result_from_wire)

    async def get_job(self, to: Where, digest: str = "", timeout: float = DEFAULT_TIMEOUT) -> JobDocument:
        """The job that the peer trains; with ``digest`` (64 hex digits) only that one will do."""
        request = jobs_pb2.GetJobRequest(digest=digest)
        return await self._call(to, self._remote(to).jobs.Get, request, timeout, job_from_wire)

    async def offer_job(self, to: Where, job: JobDocument, timeout: float = DEFAULT_TIMEOUT) -> OfferReply:
        """Propose ``job`` as one peer to another; ``ValueError`` if it is larger than 1 MiB."""
        return await self._call(to, self._remote(to).jobs.Offer, job_to_wire(job), timeout, offer_reply_from_wire)

    async def enrol(self, to: str, request: bytes, timeout: float = DEFAULT_TIMEOUT) -> Enrolled:
        """Ask the peer to certify the key of ``request`` (see ``credentials.enrolment``)."""
        stub, message = self._remote(to).credentials, credentials_pb2.EnrolRequest(request=request)
        return await self._call(to, stub.Enrol, message, timeout, enrolled_from_wire)

    async def exchange_revocations(
        self, to: str, statements: Sequence[bytes], timeout: float = DEFAULT_TIMEOUT
    ) -> tuple[bytes, ...]:
        """Give the peer ``statements`` and get all that it knows; they are not verified."""
        stub, message = self._remote(to).credentials, revocations_to_wire(statements)
        return await self._call(to, stub.Exchange, message, timeout, revocations_from_wire)

    async def show(
        self, to: str, processes: Sequence[str], timeout: float = DEFAULT_TIMEOUT
    ) -> tuple[tuple[bytes, ...], ...]:
        """The certificates (DER) of those of ``processes`` that the peer knows; they are not verified."""
        stub, message = self._remote(to).credentials, credentials_pb2.ShowRequest(processes=processes)
        return await self._call(to, stub.Show, message, timeout, shown_from_wire)

    async def diagnose(self, to: str, timeout: float = DEFAULT_TIMEOUT) -> CredentialsRefused | None:
        """Whether it is for credentials that nobody answers at ``to``; None if not."""
        return await diagnose(to, self._security.holder if self._security is not None else None, timeout)

    async def status(self, to: str, timeout: float = DEFAULT_TIMEOUT) -> StatusReport:
        """What the peer knows and does now."""
        stub = self._remote(to).swarm
        return await self._call(to, stub.Status, swarm_pb2.StatusRequest(), timeout, status_reply_from_wire)

    async def members(self, to: str, timeout: float = DEFAULT_TIMEOUT) -> tuple[MemberStatus, ...]:
        """Everyone in the peer's view, the dead and those that left included."""
        stub = self._remote(to).swarm
        return await self._call(to, stub.Members, swarm_pb2.MembersRequest(), timeout, members_from_wire)

    async def submit(self, to: str, job: JobDocument, timeout: float = DEFAULT_TIMEOUT) -> OfferReply:
        """Give the swarm ``job`` as a client; ``ValueError`` if it is larger than 1 MiB."""
        return await self._call(to, self._remote(to).swarm.Submit, job_to_wire(job), timeout, offer_reply_from_wire)

    async def weights(self, to: str, timeout: float = WEIGHTS_TIMEOUT) -> Manifest:
        """Describe the current parameters; their bytes are fetched over a FETCH link under ``(kind, round)``."""
        stub = self._remote(to).swarm
        return await self._call(to, stub.Weights, swarm_pb2.WeightsRequest(), timeout, manifest_from_wire)

    async def events(self, to: str) -> AsyncIterator[SwarmEvent]:
        """What happens from now on, until the peer closes (the iteration ends) or is gone (it raises).

        Close the iterator (``aclose``, or ``contextlib.aclosing``) to end it early.
        """
        call = self._remote(to).swarm.Events(swarm_pb2.EventsRequest(), metadata=self._metadata, wait_for_ready=False)
        try:
            async for event in call:
                yield _understood(to, event_from_wire, event)
        except grpc.aio.AioRpcError as error:
            raise from_status(error, to=to, timeout=None, mine=self._hello) from None
        except asyncio.CancelledError:
            self._check_own_cancellation(to)
            raise
        finally:
            call.cancel()

    async def forget(self, address: str) -> None:
        """Close the channels to ``address``, whose peer is gone; calls in progress there raise :class:`Closed`."""
        remote = self._remotes.pop(address, None)
        if remote is not None:
            await remote.close()

    async def reconnect(self, grace: float) -> None:
        """Make every call from now on over new connections, with the credentials of the moment.

        Calls in progress have ``grace`` seconds to end on the old ones.
        """
        if self._security is not None:
            self._tls = self._security.for_channel()
        remotes, self._remotes = list(self._remotes.values()), {}
        await asyncio.gather(*(remote.close(grace) for remote in remotes))

    async def close(self) -> None:
        """Close all channels; calls in progress and later ones raise :class:`Closed`.  May be called twice."""
        self._closed = True
        remotes, self._remotes = list(self._remotes.values()), {}
        await asyncio.gather(*(remote.close() for remote in remotes))

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where channels are open to."""
        return tuple(self._remotes)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _remote(self, to: Where) -> Remote:
        address = to if isinstance(to, str) else to.address
        if self._closed:
            raise Closed("the channels to the swarm are closed")
        remote = self._remotes.get(address)
        if remote is None:
            remote = self._remotes[address] = Remote(address, self._tls)
        return remote

    async def _call(
        self,
        where: Where,
        method: _Call[Request, Reply],
        request: Request,
        timeout: float,
        convert: Callable[[Reply], Value],
    ) -> Value:
        to = where if isinstance(where, str) else where.address
        nonce, metadata = new_nonce(), self._metadata
        if self._security is not None and not isinstance(where, str):
            metadata = (*metadata, (NONCE_KEY, nonce))
        try:
            call = method(request, timeout=timeout, metadata=metadata, wait_for_ready=False)
            reply = await call
            if self._security is not None:
                self._look_at(tuple(await call.trailing_metadata()), where, nonce, self._security)
        except grpc.aio.AioRpcError as error:
            found = from_status(error, to=to, timeout=timeout, mine=self._hello)
            if isinstance(found, Revoked) and self.revocations is not None:
                self.revocations.shown(found.statement)
            raise found from None
        except grpc.aio.UsageError:
            raise Closed(f"the channel to {to} was closed") from None
        except asyncio.CancelledError:
            self._check_own_cancellation(to)
            raise
        return _understood(to, convert, reply)

    def _look_at(self, answered: Metadata, where: Where, nonce: bytes, security: Security) -> None:
        """What an answer says beside itself: who gave it, and what is revoked."""
        if not isinstance(where, str):
            check_proof(answered, nonce, security.holder.id, where.id, where.address)
        digest = dict(answered).get(REVOKED_KEY)
        if self.revocations is not None and isinstance(digest, str):
            self.revocations.differs(where if isinstance(where, str) else where.address, digest)

    def _check_own_cancellation(self, to: str) -> None:
        """grpc ends calls on a channel that is closed under them with CancelledError; nobody cancelled the task."""
        task = asyncio.current_task()
        if task is not None and task.cancelling() == 0:
            raise Closed(f"the channel to {to} was closed") from None


def _nothing(_: object) -> None:
    return None


def _understood(to: str, convert: Callable[[Reply], Value], reply: Reply) -> Value:
    try:
        return convert(reply)
    except ValueError as error:
        raise ProtocolMismatch(f"{to} answered in a way that this version does not understand: {error}") from None
