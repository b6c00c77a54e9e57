"""Membership packets as protobuf messages (``protos/lepton/v1/membership.proto``) and back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

from lepton_p2p.credentials.claims import MAX_SIGNATURE
from lepton_p2p.identity import peer_id
from lepton_p2p.membership.messages import Ack, Body, Gossip, Nack, Packet, Ping, PingRequest, Rumour, Status, Sync
from lepton_p2p.proto.lepton.v1 import membership_pb2 as pb
from lepton_p2p.transport.wire_common import check_counter, check_optional_id, check_size, peer_from_wire, peer_to_wire

STATUS_TO_WIRE = {
    Status.ALIVE: pb.MEMBER_STATUS_ALIVE,
    Status.SUSPECT: pb.MEMBER_STATUS_SUSPECT,
    Status.DEAD: pb.MEMBER_STATUS_DEAD,
    Status.LEFT: pb.MEMBER_STATUS_LEFT,
}
_STATUS_FROM_WIRE: dict[int, Status] = {wire: status for status, wire in STATUS_TO_WIRE.items()}


def status_from_wire(value: int) -> Status:
    """The status with number ``value`` on the wire; ``ValueError`` if there is none."""
    status = _STATUS_FROM_WIRE.get(value)
    if status is None:
        raise ValueError(f"{value} is no status of a member")
    return status


def packet_to_wire(packet: Packet) -> pb.Packet:
    """The message for ``packet``; ``ValueError`` if a number is negative or has more than 64 bits."""
    out = pb.Packet(sender=peer_to_wire(packet.sender), rumours=map(_rumour_to_wire, packet.rumours))
    body = packet.body
    match body:
        case Ping():
            out.ping.CopyFrom(pb.Ping(sequence=body.sequence, target=body.target))
        case Ack():
            out.ack.CopyFrom(pb.Ack(sequence=body.sequence))
        case Nack():
            out.nack.CopyFrom(pb.Nack(sequence=body.sequence))
        case PingRequest():
            out.ping_request.CopyFrom(pb.PingRequest(sequence=body.sequence, target=peer_to_wire(body.target)))
        case Gossip():
            out.gossip.SetInParent()
        case Sync():
            members = map(_rumour_to_wire, body.members)
            out.sync.CopyFrom(pb.Sync(members=members, reply=body.reply, sequence=body.sequence))
        case _:
            assert_never(body)
    return out


def packet_from_wire(packet: pb.Packet) -> Packet:
    """The packet in a message from the network; ``ValueError`` (one line) if anything in it is out of bounds."""
    return Packet(peer_from_wire(packet.sender), _body_from_wire(packet), _rumours_from_wire(packet.rumours))


def _body_from_wire(packet: pb.Packet) -> Body:
    match packet.WhichOneof("body"):
        case "ping":
            target = check_optional_id(packet.ping.target)
            return Ping(check_counter(packet.ping.sequence, "a sequence"), target)
        case "ack":
            return Ack(check_counter(packet.ack.sequence, "a sequence"))
        case "nack":
            return Nack(check_counter(packet.nack.sequence, "a sequence"))
        case "ping_request":
            request = packet.ping_request
            return PingRequest(check_counter(request.sequence, "a sequence"), peer_from_wire(request.target))
        case "gossip":
            return Gossip()
        case "sync":
            sync = packet.sync
            return Sync(_rumours_from_wire(sync.members), sync.reply, check_counter(sync.sequence, "a sequence"))
        case None:
            raise ValueError("a packet without a body that this version knows")


def _signature(data: bytes, limit: int) -> bytes:
    if len(data) > limit:
        raise ValueError(f"a signature has at most {limit} bytes, this one {len(data)}")
    return data


def _rumour_to_wire(rumour: Rumour) -> pb.Rumour:
    return pb.Rumour(
        peer=peer_to_wire(rumour.peer),
        status=STATUS_TO_WIRE[rumour.status],
        incarnation=rumour.incarnation,
        origin=rumour.origin,
        word=rumour.word,
        accusation=rumour.accusation,
    )


def _rumours_from_wire(rumours: Iterable[pb.Rumour]) -> tuple[Rumour, ...]:
    found = tuple(rumours)
    check_size(found, "rumours")
    return tuple(
        Rumour(
            peer_from_wire(rumour.peer),
            status_from_wire(rumour.status),
            check_counter(rumour.incarnation, "an incarnation"),
            peer_id(rumour.origin) if rumour.origin else "",
            _signature(rumour.word, MAX_SIGNATURE),
            _signature(rumour.accusation, 1 + MAX_SIGNATURE),
        )
        for rumour in found
    )
