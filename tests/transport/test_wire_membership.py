"""Membership packets survive the wire unchanged, and what strangers may send does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from wire_strategies import packets

from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.membership.messages import Gossip, Packet, Ping, Rumour, Status
from lepton_p2p.proto.lepton.v1 import membership_pb2 as pb
from lepton_p2p.transport.wire_membership import packet_from_wire, packet_to_wire

A = PeerInfo(PeerId("a" * 32), "127.0.0.1:7700")
B = PeerInfo(PeerId("b" * 32), "[::1]:7701")
PACKET = Packet(A, Ping(7, B.id), (Rumour(B, Status.SUSPECT, 3, A.id),))


@given(packets)
def test_every_packet_comes_back_as_it_went(packet: Packet) -> None:
    assert packet_from_wire(pb.Packet.FromString(packet_to_wire(packet).SerializeToString())) == packet


@given(st.binary(max_size=300))
def test_random_bytes_are_a_packet_or_a_value_error(data: bytes) -> None:
    try:
        message = pb.Packet.FromString(data)
    except DecodeError:
        return
    try:
        packet = packet_from_wire(message)
    except ValueError:
        return
    assert packet_from_wire(packet_to_wire(packet)) == packet


def _target(text: str) -> Callable[[pb.Packet], None]:
    return lambda message: setattr(message.ping, "target", text)


def _address(text: str) -> Callable[[pb.Packet], None]:
    return lambda message: setattr(message.sender, "address", text)


REJECTED: dict[str, tuple[Callable[[pb.Packet], object], str]] = {
    "no sender": (lambda m: m.ClearField("sender"), "peer id"),
    "no body": (lambda m: m.ClearField("ping"), "body"),
    "upper-case id": (lambda m: setattr(m.sender, "id", "A" * 32), "peer id"),
    "short id": (lambda m: setattr(m.sender, "id", "a" * 31), "peer id"),
    "target is no id": (_target("me"), "peer id"),
    "no port": (_address("host"), "not an address"),
    "port 0": (_address("host:0"), "not an address"),
    "port too high": (_address("host:70000"), "not an address"),
    "a path": (_address("unix:/tmp/x:1"), "not an address"),
    "a line break": (_address("ho\nst:1"), "not an address"),
    "too long": (_address("h" * 300 + ":1"), "at most 300"),
    "unspecified status": (lambda m: setattr(m.rumours[0], "status", 0), "no status"),
    "unknown status": (lambda m: setattr(m.rumours[0], "status", 99), "no status"),
    "origin is no id": (lambda m: setattr(m.rumours[0], "origin", "b" * 31), "peer id"),
    "incarnation too high": (lambda m: setattr(m.rumours[0], "incarnation", 2**63), "below"),
    "word too long": (lambda m: setattr(m.rumours[0], "word", bytes(73)), "at most 72 bytes"),
    "accusation too long": (lambda m: setattr(m.rumours[0], "accusation", bytes(74)), "at most 73 bytes"),
    "sequence too high": (lambda m: setattr(m.ping, "sequence", 2**64 - 1), "below"),
}


@pytest.mark.parametrize("name", REJECTED)
def test_out_of_bounds_is_refused_in_one_line(name: str) -> None:
    spoil, expected = REJECTED[name]
    message = packet_to_wire(PACKET)
    spoil(message)
    with pytest.raises(ValueError, match=expected) as caught:
        packet_from_wire(message)
    assert "\n" not in str(caught.value)


def test_too_many_rumours_are_refused_before_any_is_looked_at() -> None:
    message = pb.Packet(sender=packet_to_wire(PACKET).sender, gossip=pb.Gossip())
    message.rumours.extend([pb.Rumour()] * 10_001)
    with pytest.raises(ValueError, match="at most 10000 rumours"):
        packet_from_wire(message)


def test_the_largest_view_fits_in_a_message() -> None:
    peer = PeerInfo(PeerId("c" * 32), "peer-0001.swarm.example.org:7700")
    rumour = Rumour(peer, Status.SUSPECT, 10**6, A.id, bytes(72), bytes(73))  # signed, and everyone is suspected
    packet = Packet(A, Gossip(), (rumour,) * 10_000)
    assert packet_to_wire(packet).ByteSize() < 4 * 1024 * 1024
