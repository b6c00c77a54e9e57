"""What the gRPC services of a peer do: thin, every line asks the room that knows."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from lepton_p2p._version import __version__
from lepton_p2p.collectives.rounds import Rounds
from lepton_p2p.credentials.bearer import Bearer
from lepton_p2p.credentials.enrolment import Request
from lepton_p2p.errors import ConfigError, JobError, JobMismatch, StateLost
from lepton_p2p.identity import PeerId
from lepton_p2p.membership.messages import Packet
from lepton_p2p.rounds.messages import RoundMessage
from lepton_p2p.runtime.acquaintances import Chain
from lepton_p2p.runtime.job_host import JobHost
from lepton_p2p.runtime.node import Node
from lepton_p2p.runtime.node_credentials import NodeCredentials
from lepton_p2p.runtime.state_fetch import SNAPSHOT
from lepton_p2p.training.loop import Progress
from lepton_p2p.transport.handlers import Handlers
from lepton_p2p.transport.links.link import Purpose
from lepton_p2p.transport.links.tickets import Ticket
from lepton_p2p.transport.values import (
    JobDocument,
    Manifest,
    MemberStatus,
    OfferReply,
    Phase,
    ResultInfo,
    StatusReport,
    SwarmEvent,
)
from lepton_p2p.transport.wire_credentials import Enrolled


@dataclass(frozen=True, slots=True)
class MembershipService:
    node: Node

    async def deliver(self, packet: Packet) -> None:
        self.node.deliver_packet(packet)


@dataclass(frozen=True, slots=True)
class RoundsService:
    rounds: Rounds

    async def deliver(self, message: RoundMessage) -> None:
        self.rounds.receive(message)


@dataclass(frozen=True, slots=True)
class LinksService:
    node: Node

    async def open(self, remote: PeerId | None, purpose: Purpose, share: bytes) -> Ticket:
        if remote is None and purpose is not Purpose.FETCH:
            raise ConfigError("only peers open ring links")
        return self.node.hub.issue_ticket(remote, purpose, share)


@dataclass(frozen=True, slots=True)
class StateService:
    node: Node
    host: JobHost

    async def manifest(self, kind: str, round: int) -> Manifest:
        if kind != SNAPSHOT:
            raise StateLost(f"no state of kind {kind!r} is kept here")
        return await self.host.state.describe(round, patience=2 * self.node.options.call_timeout)

    async def result(self, round: int) -> ResultInfo:
        kept = self.node.rounds.kept(round)
        if kept is None:
            raise StateLost(f"the result of round {round} is not kept here")
        return ResultInfo(
            round=kept.round,
            epoch_number=kept.epoch_number,
            epoch_tag=kept.epoch_tag,
            members=kept.members,
            records=kept.records,
            digest=kept.digest,
            nbytes=kept.layout.total,
            attempts=kept.attempts,
        )


@dataclass(frozen=True, slots=True)
class JobsService:
    host: JobHost

    async def get(self, digest: str) -> JobDocument:
        document = self.host.document
        if document is None:
            raise JobError("this peer has no job (yet)")
        if digest and digest != document.digest:
            raise JobMismatch(f"this peer trains job {document.digest}, not {digest}")
        return document

    async def offer(self, job: JobDocument) -> OfferReply:
        return await self.host.offer(job, from_client=False)


@dataclass(frozen=True, slots=True)
class CredentialsService:
    node: Node
    credentials: NodeCredentials

    async def enrol(self, request: Request, asker: Bearer) -> Enrolled:
        return await self.credentials.enrol(request, asker, lambda: list(self.node.view()))

    async def exchange(self, statements: tuple[bytes, ...]) -> tuple[bytes, ...]:
        assert self.node.offices is not None  # made together with the credentials
        return await self.node.offices.revoker.answer(statements)

    async def show(self, processes: tuple[PeerId, ...]) -> tuple[Chain, ...]:
        return self.credentials.acquaintances.chains(processes)


@dataclass(frozen=True, slots=True)
class SwarmService:
    node: Node
    host: JobHost
    started: float

    async def status(self) -> StatusReport:
        return status_report(self.node, self.host, time.monotonic() - self.started)

    async def members(self) -> tuple[MemberStatus, ...]:
        return member_statuses(self.node)

    async def submit(self, job: JobDocument) -> OfferReply:
        return await self.host.offer(job, from_client=True)

    def events(self) -> AsyncIterator[SwarmEvent]:
        return self.node.events.subscribe()

    async def weights(self) -> Manifest:
        return await self.host.state.describe_weights(await self.host.weights())


def member_statuses(node: Node) -> tuple[MemberStatus, ...]:
    """Everyone in the view, the dead and the gone while they are remembered."""
    epoch = node.rounds.epoch
    inside = set(epoch.ids) if epoch is not None else set()
    known = node.credentials.machine_of if node.credentials is not None else lambda peer: ("", "")
    return tuple(
        MemberStatus(member.peer, member.status, member.incarnation, member.peer.id in inside, *known(member.peer.id))
        for member in node.swim.view()
    )


def status_report(node: Node, host: JobHost, uptime: float) -> StatusReport:
    """What this peer knows and does now, from memory."""
    epoch, counters = node.rounds.epoch, node.rounds.counters
    progress, job = host.progress or Progress("joining"), host.job
    return StatusReport(
        peer=node.me,
        version=__version__,
        swarm=node.options.swarm,
        phase=_phase(host),
        members=member_statuses(node),
        epoch=epoch.number if epoch is not None else 0,
        round=node.rounds.completed,
        step=progress.step,
        data_pass=progress.pass_number,
        loss=progress.loss,
        samples_per_second=progress.samples_per_second,
        metrics=progress.metrics,
        rounds_done=counters.done,
        rounds_retried=counters.retried,
        rounds_lost=counters.lost,
        params_digest=progress.params_digest,
        job_digest=job.digest if job is not None else "",
        job_name=job.name if job is not None else "",
        uptime=uptime,
        last_recovery_seconds=counters.last_recovery_seconds,
        checkpoint=host.durable.info,
        claims_refused=node.swim.refused,
    )


def _phase(host: JobHost) -> Phase:
    progress = host.progress
    if progress is None:
        return Phase.JOINING if host.waiting else Phase.IDLE
    return {"joining": Phase.JOINING, "training": Phase.TRAINING}.get(progress.phase, Phase.DONE)


def services(node: Node, host: JobHost) -> Handlers:
    """All services of a peer."""
    return Handlers(
        membership=MembershipService(node),
        rounds=RoundsService(node.rounds),
        links=LinksService(node),
        state=StateService(node, host),
        jobs=JobsService(host),
        swarm=SwarmService(node, host, time.monotonic()),
        credentials=CredentialsService(node, node.credentials) if node.credentials is not None else None,
    )
