"""The gRPC services: read the request, ask the handler, write the answer; nothing else happens here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TypeVar

import grpc

from lepton_p2p.credentials.enrolment import read_request
from lepton_p2p.errors import CredentialsRefused
from lepton_p2p.identity import peer_id
from lepton_p2p.proto.lepton.v1 import (
    common_pb2,
    credentials_pb2,
    credentials_pb2_grpc,
    jobs_pb2,
    jobs_pb2_grpc,
    links_pb2,
    links_pb2_grpc,
    membership_pb2,
    membership_pb2_grpc,
    rounds_pb2,
    rounds_pb2_grpc,
    state_pb2,
    state_pb2_grpc,
    swarm_pb2,
    swarm_pb2_grpc,
)
from lepton_p2p.transport.faults import Context, Malformed, answering
from lepton_p2p.transport.guard import caller, check_claim
from lepton_p2p.transport.handlers import (
    CredentialsHandler,
    Handlers,
    JobsHandler,
    LinksHandler,
    MembershipHandler,
    RoundsHandler,
    StateHandler,
    SwarmHandler,
)
from lepton_p2p.transport.links.link import Purpose
from lepton_p2p.transport.wire_common import check_counter
from lepton_p2p.transport.wire_credentials import (
    enrolled_to_wire,
    revocations_from_wire,
    revocations_to_wire,
    show_request_from_wire,
    shown_to_wire,
)
from lepton_p2p.transport.wire_membership import packet_from_wire
from lepton_p2p.transport.wire_rounds import round_message_from_wire
from lepton_p2p.transport.wire_state import (
    check_kind,
    check_sha256_hex,
    job_from_wire,
    job_to_wire,
    manifest_to_wire,
    offer_reply_to_wire,
    purpose_from_wire,
    result_to_wire,
    share_from_wire,
    ticket_to_wire,
)
from lepton_p2p.transport.wire_swarm import event_to_wire, members_to_wire, status_to_wire

Wire = TypeVar("Wire")
Value = TypeVar("Value")


def read(convert: Callable[[Wire], Value], wire: Wire) -> Value:
    """``convert(wire)``, with its ``ValueError`` marked as the caller's fault."""
    try:
        return convert(wire)
    except ValueError as error:
        raise Malformed(str(error)) from None


class Membership(membership_pb2_grpc.MembershipServicer):
    def __init__(self, handler: MembershipHandler) -> None:
        self._handler = handler

    async def Deliver(self, request: membership_pb2.Packet, context: Context) -> common_pb2.Delivered:
        async with answering(context, "Membership.Deliver"):
            packet = read(packet_from_wire, request)
            check_claim(packet.sender.id)
            await self._handler.deliver(packet)
        return common_pb2.Delivered()


class Rounds(rounds_pb2_grpc.RoundsServicer):
    def __init__(self, handler: RoundsHandler) -> None:
        self._handler = handler

    async def Deliver(self, request: rounds_pb2.RoundMessage, context: Context) -> common_pb2.Delivered:
        async with answering(context, "Rounds.Deliver"):
            message = read(round_message_from_wire, request)
            check_claim(message.sender.id)
            await self._handler.deliver(message)
        return common_pb2.Delivered()


class Links(links_pb2_grpc.LinksServicer):
    def __init__(self, handler: LinksHandler) -> None:
        self._handler = handler

    async def Open(self, request: links_pb2.OpenRequest, context: Context) -> links_pb2.Ticket:
        async with answering(context, "Links.Open"):
            purpose = read(purpose_from_wire, request.purpose)
            remote = read(peer_id, request.peer) if request.peer else None
            if remote is None and purpose is not Purpose.FETCH:
                raise Malformed("a client without a peer id may open FETCH links only")
            if remote is not None:
                check_claim(remote)
            return ticket_to_wire(await self._handler.open(remote, purpose, read(share_from_wire, request.share)))


class State(state_pb2_grpc.StateServicer):
    def __init__(self, handler: StateHandler) -> None:
        self._handler = handler

    async def Manifest(self, request: state_pb2.ManifestRequest, context: Context) -> state_pb2.ManifestReply:
        async with answering(context, "State.Manifest"):
            kind, round = read(check_kind, request.kind), read(_round, request.round)
            return manifest_to_wire(await self._handler.manifest(kind, round))

    async def Result(self, request: state_pb2.ResultRequest, context: Context) -> state_pb2.ResultInfo:
        async with answering(context, "State.Result"):
            return result_to_wire(await self._handler.result(read(_round, request.round)))


class Jobs(jobs_pb2_grpc.JobsServicer):
    def __init__(self, handler: JobsHandler) -> None:
        self._handler = handler

    async def Get(self, request: jobs_pb2.GetJobRequest, context: Context) -> jobs_pb2.Job:
        async with answering(context, "Jobs.Get"):
            digest = read(check_sha256_hex, request.digest) if request.digest else ""
            return job_to_wire(await self._handler.get(digest))

    async def Offer(self, request: jobs_pb2.Job, context: Context) -> jobs_pb2.OfferReply:
        async with answering(context, "Jobs.Offer"):
            return offer_reply_to_wire(await self._handler.offer(read(job_from_wire, request)))


class Swarm(swarm_pb2_grpc.SwarmServicer):
    def __init__(self, handler: SwarmHandler) -> None:
        self._handler = handler

    async def Status(self, request: swarm_pb2.StatusRequest, context: Context) -> swarm_pb2.StatusReply:
        async with answering(context, "Swarm.Status"):
            return status_to_wire(await self._handler.status())

    async def Members(self, request: swarm_pb2.MembersRequest, context: Context) -> swarm_pb2.MembersReply:
        async with answering(context, "Swarm.Members"):
            return members_to_wire(await self._handler.members())

    async def Submit(self, request: jobs_pb2.Job, context: Context) -> jobs_pb2.OfferReply:
        async with answering(context, "Swarm.Submit"):
            return offer_reply_to_wire(await self._handler.submit(read(job_from_wire, request)))

    async def Events(self, request: swarm_pb2.EventsRequest, context: Context) -> AsyncIterator[swarm_pb2.Event]:
        async with answering(context, "Swarm.Events"):
            events = self._handler.events()
            try:
                async for event in events:
                    yield event_to_wire(event)
            finally:
                # Left to the garbage collector, the handler would learn late that its reader is gone.
                if (close := getattr(events, "aclose", None)) is not None:
                    await close()

    async def Weights(self, request: swarm_pb2.WeightsRequest, context: Context) -> state_pb2.ManifestReply:
        async with answering(context, "Swarm.Weights"):
            return manifest_to_wire(await self._handler.weights())


class Credentials(credentials_pb2_grpc.CredentialsServicer):
    def __init__(self, handler: CredentialsHandler) -> None:
        self._handler = handler

    async def Enrol(self, request: credentials_pb2.EnrolRequest, context: Context) -> credentials_pb2.EnrolReply:
        async with answering(context, "Credentials.Enrol"):
            asker = caller()
            if asker is None:
                raise CredentialsRefused("this swarm has no credentials: join without a token")
            return enrolled_to_wire(await self._handler.enrol(read(read_request, request.request), asker))

    async def Exchange(self, request: credentials_pb2.Revocations, context: Context) -> credentials_pb2.Revocations:
        async with answering(context, "Credentials.Exchange"):
            statements = await self._handler.exchange(read(revocations_from_wire, request))
            return revocations_to_wire(statements)

    async def Show(self, request: credentials_pb2.ShowRequest, context: Context) -> credentials_pb2.Shown:
        async with answering(context, "Credentials.Show"):
            return shown_to_wire(await self._handler.show(read(show_request_from_wire, request)))


def add_services(handlers: Handlers, server: grpc.aio.Server) -> tuple[str, ...]:
    """Register a service for each handler; returns the full names, for reflection and health."""
    offered: list[str] = []

    def offer(name: str) -> None:
        offered.append(f"lepton.v1.{name}")

    if handlers.membership is not None:
        membership_pb2_grpc.add_MembershipServicer_to_server(Membership(handlers.membership), server)
        offer("Membership")
    if handlers.rounds is not None:
        rounds_pb2_grpc.add_RoundsServicer_to_server(Rounds(handlers.rounds), server)
        offer("Rounds")
    if handlers.links is not None:
        links_pb2_grpc.add_LinksServicer_to_server(Links(handlers.links), server)
        offer("Links")
    if handlers.state is not None:
        state_pb2_grpc.add_StateServicer_to_server(State(handlers.state), server)
        offer("State")
    if handlers.jobs is not None:
        jobs_pb2_grpc.add_JobsServicer_to_server(Jobs(handlers.jobs), server)
        offer("Jobs")
    if handlers.swarm is not None:
        swarm_pb2_grpc.add_SwarmServicer_to_server(Swarm(handlers.swarm), server)
        offer("Swarm")
    if handlers.credentials is not None:
        credentials_pb2_grpc.add_CredentialsServicer_to_server(Credentials(handlers.credentials), server)
        offer("Credentials")
    return tuple(offered)


def _round(value: int) -> int:
    return check_counter(value, "a round")
