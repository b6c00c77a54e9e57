"""Messages of the agreement on epochs as protobuf (``protos/lepton/v1/rounds.proto``) and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import assert_never

from lepton_p2p.identity import PeerInfo, peer_id
from lepton_p2p.proto.lepton.v1 import common_pb2
from lepton_p2p.proto.lepton.v1 import rounds_pb2 as pb
from lepton_p2p.rounds.electorate import MOST as MOST_ELECTORATES
from lepton_p2p.rounds.electorate import Electorate, gather
from lepton_p2p.rounds.epoch import Epoch, Member
from lepton_p2p.rounds.messages import (
    MAX_PASSED,
    Admit,
    AdmitReply,
    Announce,
    Decision,
    Install,
    Leaving,
    Passed,
    Prepare,
    Promise,
    Refusal,
    Report,
    RoundMessage,
    Standing,
    Unite,
)
from lepton_p2p.transport.wire_common import (
    MAX_KEY,
    MAX_MEMBERS,
    ballot_from_wire,
    ballot_to_wire,
    check_counter,
    check_ids,
    check_size,
    check_text,
    check_unique,
    clip,
    peer_from_wire,
    peer_to_wire,
    peers_from_wire,
)


def round_message_to_wire(message: RoundMessage) -> pb.RoundMessage:
    """The protobuf message for ``message``; ``ValueError`` if a number is negative or has more than 64 bits."""
    out = pb.RoundMessage(sender=peer_to_wire(message.sender))
    match message:
        case Prepare(_, ballot, candidates, reason, unites):
            wire = pb.Prepare(ballot=ballot_to_wire(ballot), candidates=map(peer_to_wire, candidates))
            wire.unites = unites
            wire.reason = clip(reason)
            out.prepare.CopyFrom(wire)
        case Promise(_, ballot, report):
            out.promise.CopyFrom(pb.Promise(ballot=ballot_to_wire(ballot), report=_report_to_wire(report)))
        case Refusal(_, ballot, promised, stranger, standing):
            refusal = pb.Refusal(ballot=ballot_to_wire(ballot), promised=ballot_to_wire(promised), stranger=stranger)
            if standing is not None:
                refusal.standing.CopyFrom(_standing_to_wire(standing))
            out.refusal.CopyFrom(refusal)
        case Install(_, epoch, decision):
            out.install.CopyFrom(pb.Install(epoch=epoch_to_wire(epoch), decision=_decision_to_wire(decision)))
        case Admit(_, job, held):
            out.admit.CopyFrom(pb.Admit(job=job, held=held))
        case AdmitReply(_, queued, reason, seeking, held, behind):
            reply = pb.AdmitReply(queued=queued, reason=clip(reason), seeking=seeking, held=held, behind=behind)
            out.admit_reply.CopyFrom(reply)
        case Announce(_, standing, job, promised):
            announce = pb.Announce(standing=_standing_to_wire(standing), job=job)
            if promised is not None:
                announce.promised.CopyFrom(ballot_to_wire(promised))
            out.announce.CopyFrom(announce)
        case Unite(_, members, job, counter):
            out.unite.CopyFrom(pb.Unite(members=map(peer_to_wire, members), job=job, counter=counter))
        case Leaving(_, reason, number):
            out.leaving.CopyFrom(pb.Leaving(reason=clip(reason), epoch=number))
        case _:
            assert_never(message)
    return out


def round_message_from_wire(message: pb.RoundMessage) -> RoundMessage:
    """The message from the network; ``ValueError`` (one line) if anything in it is out of bounds."""
    sender = peer_from_wire(message.sender)
    match message.WhichOneof("body"):
        case "prepare":
            return _prepare_from_wire(sender, message.prepare)
        case "promise":
            return _promise_from_wire(sender, message.promise)
        case "refusal":
            return _refusal_from_wire(sender, message.refusal)
        case "install":
            return _install_from_wire(sender, message.install)
        case "admit":
            job = check_text(message.admit.job, "a job's digest", MAX_KEY)
            return Admit(sender, job, check_counter(message.admit.held, "work"))
        case "admit_reply":
            return _admit_reply_from_wire(sender, message.admit_reply)
        case "announce":
            return _announce_from_wire(sender, message.announce)
        case "unite":
            return _unite_from_wire(sender, message.unite)
        case "leaving":
            return Leaving(
                sender, check_text(message.leaving.reason, "a reason"), check_counter(message.leaving.epoch, "an epoch")
            )
        case None:
            raise ValueError("a round message without a body that this version knows")


def epoch_to_wire(epoch: Epoch) -> pb.Epoch:
    members = [pb.EpochMember(peer=peer_to_wire(member.peer), since=member.since) for member in epoch.members]
    return pb.Epoch(number=epoch.number, ballot=ballot_to_wire(epoch.ballot), members=members)


def epoch_from_wire(epoch: pb.Epoch) -> Epoch:
    """An epoch with 1 to ``MAX_MEMBERS`` members, each id once; ``ValueError`` otherwise."""
    check_size(epoch.members, "members")
    members = tuple(
        Member(peer_from_wire(member.peer), check_counter(member.since, "a round")) for member in epoch.members
    )
    if not members:
        raise ValueError("an epoch without members")
    check_unique(tuple(member.id for member in members))
    return Epoch(check_counter(epoch.number, "an epoch's number"), ballot_from_wire(epoch.ballot), members)


def _prepare_from_wire(sender: PeerInfo, prepare: pb.Prepare) -> Prepare:
    candidates = peers_from_wire(prepare.candidates)
    if not candidates:
        raise ValueError("a prepare without candidates")
    ballot, reason = ballot_from_wire(prepare.ballot), check_text(prepare.reason, "a reason")
    return Prepare(sender, ballot, candidates, reason, prepare.unites)


def _unite_from_wire(sender: PeerInfo, unite: pb.Unite) -> Unite:
    members = peers_from_wire(unite.members)
    if sender.id not in (peer.id for peer in members):
        raise ValueError("a lineage that its speaker is not in")
    job = check_text(unite.job, "a job's digest", MAX_KEY)
    return Unite(sender, members, job, check_counter(unite.counter, "a ballot"))


def _promise_from_wire(sender: PeerInfo, promise: pb.Promise) -> Promise:
    report = _report_from_wire(promise.report)
    if report.peer != sender.id:
        raise ValueError("a promise with another peer's report")
    return Promise(sender, ballot_from_wire(promise.ballot), report)


def _announce_from_wire(sender: PeerInfo, announce: pb.Announce) -> Announce:
    job = check_text(announce.job, "a job's digest", MAX_KEY)
    promised = ballot_from_wire(announce.promised) if announce.HasField("promised") else None
    return Announce(sender, _standing_from_wire(announce.standing), job, promised)


def _refusal_from_wire(sender: PeerInfo, refusal: pb.Refusal) -> Refusal:
    standing = _standing_from_wire(refusal.standing) if refusal.HasField("standing") else None
    ballot, promised = ballot_from_wire(refusal.ballot), ballot_from_wire(refusal.promised)
    return Refusal(sender, ballot, promised, refusal.stranger, standing)


def _install_from_wire(sender: PeerInfo, install: pb.Install) -> Install:
    epoch, decision = epoch_from_wire(install.epoch), _decision_from_wire(install.decision)
    if not {*decision.holders, *decision.brought} <= set(epoch.ids):
        raise ValueError("a decision with holders or others that are not in its epoch")
    return Install(sender, epoch, decision)


def _admit_reply_from_wire(sender: PeerInfo, reply: pb.AdmitReply) -> AdmitReply:
    reason, held = check_text(reply.reason, "a reason"), check_counter(reply.held, "work")
    return AdmitReply(sender, reply.queued, reason, reply.seeking, held, reply.behind)


def _report_to_wire(report: Report) -> pb.Report:
    return pb.Report(
        peer=report.peer,
        epoch=None if report.epoch is None else epoch_to_wire(report.epoch),
        completed=report.completed,
        digest=report.digest,
        work=report.work,
        origin=report.origin,
        pending=report.pending,
        schema=report.schema,
        rejected=clip(report.rejected),
        attempts=report.attempts,
        broken=clip(report.broken),
        state=report.state,
        passed=[pb.Passed(tag=one.tag, base=one.base) for one in report.passed],
        electorates=_electorates_to_wire(report.electorates),
        number=report.number,
    )


def _report_from_wire(report: pb.Report) -> Report:
    check_size(report.passed, "epochs", MAX_PASSED)
    return Report(
        peer=peer_id(report.peer),
        epoch=epoch_from_wire(report.epoch) if report.HasField("epoch") else None,
        completed=check_counter(report.completed, "a round"),
        digest=report.digest,
        work=check_counter(report.work, "work"),
        origin=check_counter(report.origin, "work"),
        pending=check_counter(report.pending, "a round"),
        schema=report.schema,
        rejected=check_text(report.rejected, "a reason"),
        attempts=report.attempts,
        broken=check_text(report.broken, "a reason"),
        state=report.state,
        passed=tuple(Passed(one.tag, check_counter(one.base, "a round")) for one in report.passed),
        electorates=_electorates_from_wire(report.electorates),
        number=check_counter(report.number, "an epoch's number"),
    )


def _decision_to_wire(decision: Decision) -> pb.Decision:
    return pb.Decision(
        base=decision.base,
        digest=decision.digest,
        holders=decision.holders,
        work=decision.work,
        rejected=clip(decision.rejected),
        lost=[common_pb2.Lost(peer=peer, reason=clip(reason)) for peer, reason in decision.lost],
        origin=decision.origin,
        brought=decision.brought,
        electorates=_electorates_to_wire(decision.electorates),
    )


def _decision_from_wire(decision: pb.Decision) -> Decision:
    check_size(decision.lost, "lost peers")
    return Decision(
        base=check_counter(decision.base, "a round"),
        digest=decision.digest,
        holders=check_ids(decision.holders),
        work=check_counter(decision.work, "work"),
        rejected=check_text(decision.rejected, "a reason"),
        lost=tuple((peer_id(lost.peer), check_text(lost.reason, "a reason")) for lost in decision.lost),
        origin=check_counter(decision.origin, "work"),
        brought=check_ids(decision.brought),
        electorates=_electorates_from_wire(decision.electorates),
    )


def _electorates_to_wire(electorates: Iterable[Electorate]) -> list[pb.Electorate]:
    return [pb.Electorate(peers=sorted(electorate)) for electorate in electorates]


def _electorates_from_wire(electorates: Sequence[pb.Electorate]) -> tuple[Electorate, ...]:
    check_size(electorates, "electorates", 8 * MOST_ELECTORATES)
    if any(not electorate.peers for electorate in electorates):
        raise ValueError("an electorate of nobody")
    return gather([[frozenset(check_ids(electorate.peers)) for electorate in electorates]])


def _standing_to_wire(standing: Standing) -> pb.Standing:
    return pb.Standing(
        size=standing.size,
        work=standing.work,
        number=standing.number,
        tag=standing.tag,
        origin=standing.origin,
        paused=standing.paused,
    )


def _standing_from_wire(standing: pb.Standing) -> Standing:
    return Standing(
        size=check_counter(standing.size, "an epoch's size", MAX_MEMBERS + 1),
        work=check_counter(standing.work, "work"),
        number=check_counter(standing.number, "an epoch's number"),
        tag=standing.tag,
        origin=check_counter(standing.origin, "work"),
        paused=standing.paused,
    )
