"""The control plane's callers: one typed method for each call, over a pool of channels by address.

Failure detection has a channel of its own to each peer.  Otherwise a probe would wait behind other calls (HTTP/2
gives them one connection), and a busy peer would look dead.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import cached_property
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar

import grpc

from lepton_p2p.errors import AddressError, Closed, ProtocolMismatch
from lepton_p2p.identity import PeerId, join_address, split_address
from lepton_p2p.membership.messages import Packet
from lepton_p2p.proto.lepton.v1 import (
    jobs_pb2,
    jobs_pb2_grpc,
    links_pb2,
    links_pb2_grpc,
    membership_pb2_grpc,
    rounds_pb2_grpc,
    state_pb2,
    state_pb2_grpc,
    swarm_pb2,
    swarm_pb2_grpc,
)
from lepton_p2p.rounds.messages import RoundMessage
from lepton_p2p.transport.faults import from_status
from lepton_p2p.transport.links.link import Purpose
from lepton_p2p.transport.links.tickets import Ticket
from lepton_p2p.transport.metadata import Hello
from lepton_p2p.transport.options import BULK_OPTIONS, PROBE_OPTIONS
from lepton_p2p.transport.values import (
    JobDocument,
    Manifest,
    MemberStatus,
    OfferReply,
    ResultInfo,
    StatusReport,
    SwarmEvent,
)
from lepton_p2p.transport.wire_common import check_address
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
WEIGHTS_TIMEOUT: Final = 60.0
"""Seconds for a call that is answered at the next step boundary."""

Request = TypeVar("Request", contravariant=True)
Reply = TypeVar("Reply")
ReplyOut = TypeVar("ReplyOut", covariant=True)
Value = TypeVar("Value")


class _Call(Protocol[Request, ReplyOut]):
    """What the stubs' unary methods have in common."""

    def __call__(
        self, request: Request, /, *, timeout: float, metadata: tuple[tuple[str, str], ...], wait_for_ready: bool
    ) -> Awaitable[ReplyOut]: ...


class _Remote:
    """The two channels to one address and the stubs on them, made when they are first used."""

    def __init__(self, address: str) -> None:
        try:
            host, port = split_address(check_address(address))
        except ValueError as error:
            raise AddressError(str(error)) from None
        # The scheme is spelt out: without it a host named like one ("unix") would change what is dialled.
        self._target = f"dns:///{join_address(host, port)}"
        self._open: list[grpc.aio.Channel] = []

    def _channel(self, options: Sequence[tuple[str, Any]]) -> grpc.aio.Channel:
        channel = grpc.aio.insecure_channel(self._target, options=options, compression=grpc.Compression.NoCompression)
        self._open.append(channel)
        return channel

    @cached_property
    def _bulk(self) -> grpc.aio.Channel:
        return self._channel(BULK_OPTIONS)

    @cached_property
    def membership(self) -> membership_pb2_grpc.MembershipAsyncStub:
        return membership_pb2_grpc.MembershipStub(self._channel(PROBE_OPTIONS))

    @cached_property
    def rounds(self) -> rounds_pb2_grpc.RoundsAsyncStub:
        return rounds_pb2_grpc.RoundsStub(self._bulk)

    @cached_property
    def links(self) -> links_pb2_grpc.LinksAsyncStub:
        return links_pb2_grpc.LinksStub(self._bulk)

    @cached_property
    def state(self) -> state_pb2_grpc.StateAsyncStub:
        return state_pb2_grpc.StateStub(self._bulk)

    @cached_property
    def jobs(self) -> jobs_pb2_grpc.JobsAsyncStub:
        return jobs_pb2_grpc.JobsStub(self._bulk)

    @cached_property
    def swarm(self) -> swarm_pb2_grpc.SwarmAsyncStub:
        return swarm_pb2_grpc.SwarmStub(self._bulk)

    async def close(self) -> None:
        await asyncio.gather(*(channel.close(None) for channel in self._open))


class Channels:
    """Calls to other peers in the name of ``me`` (None: a client that is not a member) and of ``swarm``.

    ``to`` is ``host:port``, timeouts are in seconds.  Every method raises :class:`SwarmUnreachable` (refused, gone,
    no answer in time), :class:`AddressError` (does not parse or resolve), :class:`WrongSwarm`,
    :class:`ProtocolMismatch` (also for answers that are malformed), :class:`Closed`, or whatever
    :class:`LeptonError` the peer's handler raised.  Nothing is retried, and an unreachable peer fails at once.
    """

    def __init__(self, *, swarm: str, me: PeerId | None = None, hello: Hello | None = None) -> None:
        self._hello = hello or Hello(swarm)
        self._me = me
        self._metadata = self._hello.to_metadata()
        self._remotes: dict[str, _Remote] = {}
        self._closed = False

    async def deliver_packet(self, to: str, packet: Packet, timeout: float) -> None:
        """Hand ``packet`` to the failure detector at ``to``, over the channel that is kept for this."""
        await self._call(to, self._remote(to).membership.Deliver, packet_to_wire(packet), timeout, _nothing)

    async def deliver_round(self, to: str, message: RoundMessage, timeout: float) -> None:
        """Hand ``message`` to the agreement at ``to``; await one before the next to keep their order."""
        await self._call(to, self._remote(to).rounds.Deliver, round_message_to_wire(message), timeout, _nothing)

    async def open_link(
        self, to: str, purpose: Purpose, *, share: bytes = b"", timeout: float = DEFAULT_TIMEOUT
    ) -> Ticket:
        """A ticket for one link to the data plane of the peer at ``to``; ``share``: see ``LinkHub.propose``."""
        request = links_pb2.OpenRequest(peer=self._me or "", purpose=purpose_to_wire(purpose), share=share)
        return await self._call(to, self._remote(to).links.Open, request, timeout, ticket_from_wire)

    async def manifest(self, to: str, kind: str, round: int, timeout: float = DEFAULT_TIMEOUT) -> Manifest:
        """What state ``kind`` after ``round`` the peer keeps; :class:`StateLost` if none."""
        request = state_pb2.ManifestRequest(kind=kind, round=round)
        return await self._call(to, self._remote(to).state.Manifest, request, timeout, manifest_from_wire)

    async def result(self, to: str, round: int, timeout: float = DEFAULT_TIMEOUT) -> ResultInfo:
        """The result of ``round`` as the peer keeps it; :class:`StateLost` if it does not."""
        request = state_pb2.ResultRequest(round=round)
        return await self._call(to, self._remote(to).state.Result, request, timeout, result_from_wire)

    async def get_job(self, to: str, digest: str = "", timeout: float = DEFAULT_TIMEOUT) -> JobDocument:
        """The job that the peer trains; with ``digest`` (64 hex digits) only that one will do."""
        request = jobs_pb2.GetJobRequest(digest=digest)
        return await self._call(to, self._remote(to).jobs.Get, request, timeout, job_from_wire)

    async def offer_job(self, to: str, job: JobDocument, timeout: float = DEFAULT_TIMEOUT) -> OfferReply:
        """Propose ``job`` as one peer to another; ``ValueError`` if it is larger than 1 MiB."""
        return await self._call(to, self._remote(to).jobs.Offer, job_to_wire(job), timeout, offer_reply_from_wire)

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

    def _remote(self, address: str) -> _Remote:
        if self._closed:
            raise Closed("the channels to the swarm are closed")
        remote = self._remotes.get(address)
        if remote is None:
            remote = self._remotes[address] = _Remote(address)
        return remote

    async def _call(
        self,
        to: str,
        method: _Call[Request, Reply],
        request: Request,
        timeout: float,
        convert: Callable[[Reply], Value],
    ) -> Value:
        try:
            reply = await method(request, timeout=timeout, metadata=self._metadata, wait_for_ready=False)
        except grpc.aio.AioRpcError as error:
            raise from_status(error, to=to, timeout=timeout, mine=self._hello) from None
        except grpc.aio.UsageError:
            raise Closed(f"the channel to {to} was closed") from None
        except asyncio.CancelledError:
            self._check_own_cancellation(to)
            raise
        return _understood(to, convert, reply)

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
