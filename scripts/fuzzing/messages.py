"""The control plane: protobuf messages and what is made of them, and the call's metadata."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError, Message

from fuzzing.target import Target, refusing
from lepton_p2p.errors import IntegrityError
from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.proto.lepton.v1 import jobs_pb2, links_pb2, membership_pb2, rounds_pb2, state_pb2, swarm_pb2
from lepton_p2p.runtime import manifests
from lepton_p2p.transport.metadata import PROTOCOL_KEY, SWARM_KEY, Hello
from lepton_p2p.transport.wire_membership import packet_from_wire
from lepton_p2p.transport.wire_rounds import round_message_from_wire
from lepton_p2p.transport.wire_state import (
    job_from_wire,
    manifest_from_wire,
    offer_reply_from_wire,
    result_from_wire,
    share_from_wire,
    ticket_from_wire,
)
from lepton_p2p.transport.wire_swarm import event_from_wire, members_from_wire, status_reply_from_wire

_PEER = PeerInfo(PeerId("a" * 32), "127.0.0.1:7700")


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


def _seed(message: Message) -> tuple[bytes, ...]:
    return (message.SerializeToString(),)


TARGETS = (
    Target(
        "messages.packet",
        conversion(membership_pb2.Packet, packet_from_wire),
        _seed(membership_pb2.Packet(sender={"id": _PEER.id, "address": _PEER.address}, ping={"sequence": 1})),
    ),
    Target(
        "messages.round_message",
        conversion(rounds_pb2.RoundMessage, round_message_from_wire),
        _seed(rounds_pb2.RoundMessage(sender={"id": _PEER.id, "address": _PEER.address}, leaving={"reason": "bye"})),
    ),
    Target("messages.manifest", whole_manifest, _seed(state_pb2.ManifestReply(round=3, total_bytes=0))),
    Target(
        "messages.result",
        conversion(state_pb2.ResultInfo, result_from_wire),
        _seed(state_pb2.ResultInfo(round=3, members=[_PEER.id], records=[b"x"])),
    ),
    Target(
        "messages.job",
        conversion(jobs_pb2.Job, job_from_wire),
        _seed(jobs_pb2.Job(json=b"{}", digest="0" * 64)),
    ),
    Target("messages.offer_reply", conversion(jobs_pb2.OfferReply, offer_reply_from_wire)),
    Target(
        "messages.ticket",
        conversion(links_pb2.Ticket, ticket_from_wire),
        _seed(links_pb2.Ticket(port=1, token=bytes(32), share=bytes(32))),
    ),
    Target(
        "messages.open_request",
        conversion(links_pb2.OpenRequest, lambda request: share_from_wire(request.share)),
        _seed(links_pb2.OpenRequest(peer=_PEER.id, share=bytes(32))),
    ),
    Target("messages.status", conversion(swarm_pb2.StatusReply, status_reply_from_wire)),
    Target("messages.members", conversion(swarm_pb2.MembersReply, members_from_wire)),
    Target("messages.event", conversion(swarm_pb2.Event, event_from_wire)),
    Target("messages.metadata", metadata, (b"lepton\n1",)),
)
