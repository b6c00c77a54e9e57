"""The client API's values as protobuf (``protos/lepton/v1/swarm.proto``) and back."""

from __future__ import annotations

from collections.abc import Iterable

from lepton_p2p.proto.lepton.v1 import swarm_pb2 as pb
from lepton_p2p.transport.values import CheckpointInfo, MemberStatus, Phase, StatusReport, SwarmEvent
from lepton_p2p.transport.wire_common import (
    MAX_KEY,
    check_counter,
    check_optional_id,
    check_size,
    check_text,
    check_values,
    clip,
    peer_from_wire,
    peer_to_wire,
)
from lepton_p2p.transport.wire_membership import STATUS_TO_WIRE, status_from_wire

MAX_NAME = 256
MAX_VERSION = 64
MAX_NODE_NAME = 64
MAX_KIND = 64

_PHASE_TO_WIRE = {
    Phase.IDLE: pb.PHASE_IDLE,
    Phase.JOINING: pb.PHASE_JOINING,
    Phase.TRAINING: pb.PHASE_TRAINING,
    Phase.DONE: pb.PHASE_DONE,
}
_PHASE_FROM_WIRE: dict[int, Phase] = {wire: phase for phase, wire in _PHASE_TO_WIRE.items()}


def status_to_wire(report: StatusReport) -> pb.StatusReply:
    return pb.StatusReply(
        peer=peer_to_wire(report.peer),
        version=report.version,
        swarm=report.swarm,
        members=map(_member_to_wire, report.members),
        phase=_PHASE_TO_WIRE[report.phase],
        epoch=report.epoch,
        round=report.round,
        step=report.step,
        data_pass=report.data_pass,
        loss=report.loss,
        samples_per_second=report.samples_per_second,
        metrics=check_values(report.metrics),
        rounds_done=report.rounds_done,
        rounds_retried=report.rounds_retried,
        rounds_lost=report.rounds_lost,
        params_digest=report.params_digest,
        job_digest=report.job_digest,
        job_name=clip(report.job_name, MAX_NAME),
        uptime_seconds=report.uptime,
        last_recovery_seconds=report.last_recovery_seconds,
        checkpoint=None if report.checkpoint is None else _checkpoint_to_wire(report.checkpoint),
        claims_refused=report.claims_refused,
    )


def status_reply_from_wire(reply: pb.StatusReply) -> StatusReport:
    """A peer's status from the network; ``ValueError`` (one line) if anything in it is out of bounds."""
    phase = _PHASE_FROM_WIRE.get(reply.phase)
    if phase is None:
        raise ValueError(f"{reply.phase} is no phase")
    return StatusReport(
        peer=peer_from_wire(reply.peer),
        version=check_text(reply.version, "a version", MAX_VERSION),
        swarm=check_text(reply.swarm, "a swarm's id", MAX_NAME),
        phase=phase,
        members=_members_from_wire(reply.members),
        epoch=check_counter(reply.epoch, "an epoch's number"),
        round=check_counter(reply.round, "a round"),
        step=check_counter(reply.step, "a step"),
        data_pass=check_counter(reply.data_pass, "a pass"),
        loss=reply.loss if reply.HasField("loss") else None,
        samples_per_second=reply.samples_per_second,
        metrics=check_values(reply.metrics),
        rounds_done=check_counter(reply.rounds_done, "a count"),
        rounds_retried=check_counter(reply.rounds_retried, "a count"),
        rounds_lost=check_counter(reply.rounds_lost, "a count"),
        params_digest=check_text(reply.params_digest, "a digest", MAX_KEY),
        job_digest=check_text(reply.job_digest, "a digest", MAX_KEY),
        job_name=check_text(reply.job_name, "a job's name", MAX_NAME),
        uptime=reply.uptime_seconds,
        last_recovery_seconds=reply.last_recovery_seconds if reply.HasField("last_recovery_seconds") else None,
        checkpoint=_checkpoint_from_wire(reply.checkpoint) if reply.HasField("checkpoint") else None,
        claims_refused=check_counter(reply.claims_refused, "a count"),
    )


def members_to_wire(members: Iterable[MemberStatus]) -> pb.MembersReply:
    return pb.MembersReply(members=map(_member_to_wire, members))


def members_from_wire(reply: pb.MembersReply) -> tuple[MemberStatus, ...]:
    """A peer's view from the network; ``ValueError`` (one line) if anything in it is out of bounds."""
    return _members_from_wire(reply.members)


def event_to_wire(event: SwarmEvent) -> pb.Event:
    return pb.Event(
        time=event.time,
        kind=event.kind,
        peer=event.peer,
        text=clip(event.text),
        values=check_values(event.values),
    )


def event_from_wire(event: pb.Event) -> SwarmEvent:
    """An event from the network; ``ValueError`` (one line) if anything in it is out of bounds."""
    return SwarmEvent(
        time=event.time,
        kind=check_text(event.kind, "an event's kind", MAX_KIND),
        peer=check_optional_id(event.peer),
        text=check_text(event.text, "an event's text"),
        values=check_values(event.values),
    )


def _checkpoint_to_wire(info: CheckpointInfo) -> pb.Checkpoint:
    return pb.Checkpoint(
        step=info.step, age_seconds=info.age, seconds=info.seconds, bytes=info.size, failures=info.failures
    )


def _checkpoint_from_wire(wire: pb.Checkpoint) -> CheckpointInfo:
    return CheckpointInfo(
        step=check_counter(wire.step, "a step"),
        age=wire.age_seconds,
        seconds=wire.seconds,
        size=check_counter(wire.bytes, "a size"),
        failures=check_counter(wire.failures, "a count"),
    )


def _member_to_wire(member: MemberStatus) -> pb.MemberView:
    return pb.MemberView(
        peer=peer_to_wire(member.peer),
        status=STATUS_TO_WIRE[member.status],
        incarnation=member.incarnation,
        in_epoch=member.in_epoch,
        node=member.node,
        node_name=member.node_name,
    )


def _members_from_wire(members: Iterable[pb.MemberView]) -> tuple[MemberStatus, ...]:
    found = tuple(members)
    check_size(found, "members")
    return tuple(
        MemberStatus(
            peer_from_wire(member.peer),
            status_from_wire(member.status),
            check_counter(member.incarnation, "an incarnation"),
            member.in_epoch,
            check_optional_id(member.node),
            check_text(member.node_name, "a node's name", MAX_NODE_NAME),
        )
        for member in found
    )
