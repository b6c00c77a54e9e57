"""The control plane: protobuf messages and what is made of them, and the call's metadata."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError, Message

from fuzzing.target import Target, refusing
from lepton_p2p.errors import IntegrityError
from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.membership.messages import Packet, Ping, PingRequest, Rumour, Status, Sync
from lepton_p2p.proto.lepton.v1 import jobs_pb2, links_pb2, membership_pb2, rounds_pb2, state_pb2, swarm_pb2
from lepton_p2p.rounds.epoch import Ballot, Epoch, Member
from lepton_p2p.rounds.messages import (
    Announce,
    Decision,
    Install,
    Prepare,
    Promise,
    Refusal,
    Report,
    Standing,
)
from lepton_p2p.runtime import manifests
from lepton_p2p.training import manifest as training
from lepton_p2p.training.manifest import Manifest
from lepton_p2p.transport.metadata import PROTOCOL_KEY, SWARM_KEY, Hello
from lepton_p2p.transport.values import MemberStatus, Phase, ResultInfo, StatusReport, SwarmEvent
from lepton_p2p.transport.wire_membership import packet_from_wire, packet_to_wire
from lepton_p2p.transport.wire_rounds import round_message_from_wire, round_message_to_wire
from lepton_p2p.transport.wire_state import (
    job_from_wire,
    manifest_from_wire,
    manifest_to_wire,
    offer_reply_from_wire,
    result_from_wire,
    result_to_wire,
    share_from_wire,
    ticket_from_wire,
)
from lepton_p2p.transport.wire_swarm import (
    event_from_wire,
    event_to_wire,
    members_from_wire,
    members_to_wire,
    status_reply_from_wire,
    status_to_wire,
)


def conversion(wire: type[Message], convert: Callable[[Any], object]) -> Callable[[bytes], None]:
    """Bytes → message → value: :class:`DecodeError` and ``ValueError`` are the ways to say no."""
    return refusing(lambda data: convert(wire.FromString(data)), DecodeError, ValueError)


def whole_manifest(data: bytes) -> None:
    """As a joiner does it: what is accepted adds up, before anything is allocated for it."""

    def take(reply: state_pb2.ManifestReply) -> None:
        manifest = manifests.from_wire(manifest_from_wire(reply))
        assert sum(length for _, length in map(manifest.span, range(len(manifest.chunk_digests)))) == (
            manifest.total_bytes
        )

    refusing(lambda one: take(state_pb2.ManifestReply.FromString(one)), DecodeError, ValueError, IntegrityError)(data)


def metadata(data: bytes) -> None:
    """What comes with every call."""
    swarm, _, protocol = data.decode("utf-8", "replace").partition("\n")
    refusing(lambda _: Hello.from_metadata(((SWARM_KEY, swarm), (PROTOCOL_KEY, protocol))), ValueError)(data)


def _bytes(*messages: Message) -> tuple[bytes, ...]:
    return tuple(message.SerializeToString() for message in messages)


_ME, _YOU = PeerInfo(PeerId("a" * 32), "127.0.0.1:7700"), PeerInfo(PeerId("b" * 32), "[::1]:7701")
_BALLOT = Ballot(3, _ME.id)
_EPOCH = Epoch(3, _BALLOT, (Member(_ME, 1), Member(_YOU, 2)))
_REPORT = Report(_YOU.id, _EPOCH, 7, 8, "", 9, 8, 10, 11, 2, "broken")
_PACKETS = (
    Packet(_ME, Ping(1, _YOU.id), (Rumour(_YOU, Status.SUSPECT, 2, _ME.id),)),
    Packet(_ME, PingRequest(4, _YOU)),
    Packet(_ME, Ping(1, _YOU.id), (Rumour(_YOU, Status.SUSPECT, 2, _ME.id, bytes(72), b"\1" + bytes(72)),)),
    Packet(_ME, Sync((Rumour(_ME, Status.ALIVE, 1), Rumour(_YOU, Status.DEAD, 1)), True, 2)),
)
_ROUNDS = (
    Prepare(_ME, _BALLOT, (_ME, _YOU), "a peer was lost"),
    Promise(_YOU, _BALLOT, _REPORT),
    Refusal(_YOU, _BALLOT, Ballot(4, _YOU.id), True, Standing(2, 3, 4, 5)),
    Install(_ME, _EPOCH, Decision(7, 8, (_ME.id,), 9, "", ((PeerId("c" * 32), "silent"),))),
    Announce(_ME, Standing(2, 3, 4, 5), "0" * 64, _BALLOT),
)
_TRAINED = Manifest(1, (training.TensorSpec("w", "float32", (3, 5), 0),), (bytes(32),), '{"cursor": null}', 60)
_STATUS = StatusReport(_ME, "0.1", "lepton", Phase.TRAINING, members=(MemberStatus(_YOU, Status.ALIVE, 4, True),))
_RESULT = ResultInfo(12, 3, 2**64 - 1, (_ME.id, _YOU.id), (b"one", b"two"), 2**63 + 1, 1000, 2)

TARGETS = (
    Target(
        "messages.packet",
        conversion(membership_pb2.Packet, packet_from_wire),
        _bytes(*map(packet_to_wire, _PACKETS)),
    ),
    Target(
        "messages.round_message",
        conversion(rounds_pb2.RoundMessage, round_message_from_wire),
        _bytes(*map(round_message_to_wire, _ROUNDS)),
    ),
    Target(
        "messages.manifest",
        whole_manifest,
        _bytes(manifest_to_wire(manifests.to_wire("snapshot", _TRAINED))),
    ),
    Target("messages.result", conversion(state_pb2.ResultInfo, result_from_wire), _bytes(result_to_wire(_RESULT))),
    Target(
        "messages.job",
        conversion(jobs_pb2.Job, job_from_wire),
        _bytes(jobs_pb2.Job(json=b"{}", digest="0" * 64)),
    ),
    Target(
        "messages.offer_reply",
        conversion(jobs_pb2.OfferReply, offer_reply_from_wire),
        _bytes(jobs_pb2.OfferReply(accepted=True, reason="why")),
    ),
    Target(
        "messages.ticket",
        conversion(links_pb2.Ticket, ticket_from_wire),
        _bytes(links_pb2.Ticket(port=1, token=bytes(32), share=bytes(32))),
    ),
    Target(
        "messages.open_request",
        conversion(links_pb2.OpenRequest, lambda request: share_from_wire(request.share)),
        _bytes(links_pb2.OpenRequest(peer=_ME.id, share=bytes(32))),
    ),
    Target(
        "messages.status", conversion(swarm_pb2.StatusReply, status_reply_from_wire), _bytes(status_to_wire(_STATUS))
    ),
    Target(
        "messages.members",
        conversion(swarm_pb2.MembersReply, members_from_wire),
        _bytes(members_to_wire(_STATUS.members)),
    ),
    Target(
        "messages.event",
        conversion(swarm_pb2.Event, event_from_wire),
        _bytes(event_to_wire(SwarmEvent(1.5, "joined", _YOU.id, "b joined", {"members": 2.0}))),
    ),
    Target("messages.metadata", metadata, (b"lepton\n1",)),
)
