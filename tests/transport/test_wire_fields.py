"""Every field of a value has its field on the wire: a field added to one side only fails here."""

from __future__ import annotations

from dataclasses import fields

import pytest
from google.protobuf.message import Message

from lepton_p2p.identity import PeerInfo
from lepton_p2p.membership import messages as membership
from lepton_p2p.proto.lepton.v1 import common_pb2, jobs_pb2, links_pb2, membership_pb2, rounds_pb2, state_pb2, swarm_pb2
from lepton_p2p.rounds import epoch
from lepton_p2p.rounds import messages as rounds
from lepton_p2p.transport import values
from lepton_p2p.transport.links.tickets import Ticket

OUTSIDE = {"sender"}
"""Stands beside the body of a round message, once for all kinds."""

PAIRS: list[tuple[type, type[Message]]] = [
    (PeerInfo, common_pb2.PeerInfo),
    (epoch.Ballot, common_pb2.Ballot),
    (epoch.Member, rounds_pb2.EpochMember),
    (epoch.Epoch, rounds_pb2.Epoch),
    (rounds.Standing, rounds_pb2.Standing),
    (rounds.Report, rounds_pb2.Report),
    (rounds.Decision, rounds_pb2.Decision),
    (rounds.Prepare, rounds_pb2.Prepare),
    (rounds.Promise, rounds_pb2.Promise),
    (rounds.Refusal, rounds_pb2.Refusal),
    (rounds.Install, rounds_pb2.Install),
    (rounds.Admit, rounds_pb2.Admit),
    (rounds.AdmitReply, rounds_pb2.AdmitReply),
    (rounds.Announce, rounds_pb2.Announce),
    (rounds.Leaving, rounds_pb2.Leaving),
    (membership.Rumour, membership_pb2.Rumour),
    (membership.Ping, membership_pb2.Ping),
    (membership.Ack, membership_pb2.Ack),
    (membership.Nack, membership_pb2.Nack),
    (membership.PingRequest, membership_pb2.PingRequest),
    (membership.Gossip, membership_pb2.Gossip),
    (membership.Sync, membership_pb2.Sync),
    (Ticket, links_pb2.Ticket),
    (values.TensorSpec, state_pb2.TensorSpec),
    (values.Manifest, state_pb2.ManifestReply),
    (values.ResultInfo, state_pb2.ResultInfo),
    (values.JobDocument, jobs_pb2.Job),
    (values.OfferReply, jobs_pb2.OfferReply),
    (values.MemberStatus, swarm_pb2.MemberView),
    (values.SwarmEvent, swarm_pb2.Event),
]


@pytest.mark.parametrize(("value", "wire"), PAIRS, ids=lambda kind: kind.__name__)
def test_both_sides_have_the_same_fields(value: type, wire: type[Message]) -> None:
    assert {field.name for field in fields(value)} - OUTSIDE == set(wire.DESCRIPTOR.fields_by_name)


def test_a_status_has_the_same_fields_but_for_the_unit_in_a_name() -> None:
    names = {field.name for field in fields(values.StatusReport)} - {"uptime"} | {"uptime_seconds"}
    assert names == set(swarm_pb2.StatusReply.DESCRIPTOR.fields_by_name)
