"""Round messages survive the wire unchanged, and what strangers may send does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from wire_strategies import ROUND_MESSAGES, round_messages

from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.proto.lepton.v1 import rounds_pb2 as pb
from lepton_p2p.rounds.epoch import Ballot, Epoch, Member
from lepton_p2p.rounds.messages import (
    Admit,
    Announce,
    Decision,
    Install,
    Leaving,
    Prepare,
    Promise,
    Report,
    RoundMessage,
    Standing,
    Unite,
)
from lepton_p2p.transport.wire_rounds import round_message_from_wire, round_message_to_wire

A = PeerInfo(PeerId("a" * 32), "127.0.0.1:7700")
B = PeerInfo(PeerId("b" * 32), "[::1]:7701")
BALLOT = Ballot(3, A.id)
EPOCH = Epoch(5, BALLOT, (Member(A, 1), Member(B, 9)))
PREPARE = Prepare(A, BALLOT, (A, B), "link to b lost")
PROMISE = Promise(A, BALLOT, Report(A.id, EPOCH, completed=8))
INSTALL = Install(A, EPOCH, Decision(8, 77, (A.id,), 40, lost=((PeerId("c" * 32), "silent"),)))
UNITE = Unite(A, (A, B), "", 4)
ANNOUNCE = Announce(A, Standing(2, 40, 5, EPOCH.tag), "")


def over_the_wire(message: RoundMessage) -> RoundMessage:
    return round_message_from_wire(pb.RoundMessage.FromString(round_message_to_wire(message).SerializeToString()))


def test_every_kind_of_message_is_covered_here() -> None:
    assert set(ROUND_MESSAGES) == set(get_args(RoundMessage))


@given(round_messages)
def test_every_message_comes_back_as_it_went(message: RoundMessage) -> None:
    assert over_the_wire(message) == message


@given(st.binary(max_size=300))
def test_random_bytes_are_a_message_or_a_value_error(data: bytes) -> None:
    try:
        message = pb.RoundMessage.FromString(data)
    except DecodeError:
        return
    try:
        found = round_message_from_wire(message)
    except ValueError:
        return
    assert over_the_wire(found) == found


@given(st.text(st.characters(codec=None)))
def test_no_reason_keeps_a_message_from_leaving(reason: str) -> None:
    found = over_the_wire(Leaving(A, reason))
    assert isinstance(found, Leaving)
    assert len(found.reason) <= 500
    assert "\n" not in found.reason


def test_the_epoch_keeps_its_tag() -> None:
    found = over_the_wire(INSTALL)
    assert isinstance(found, Install)
    assert found.epoch.tag == EPOCH.tag


REJECTED: dict[str, tuple[RoundMessage, Callable[[pb.RoundMessage], object], str]] = {
    "no sender": (PREPARE, lambda m: m.ClearField("sender"), "peer id"),
    "no body": (PREPARE, lambda m: m.ClearField("prepare"), "body"),
    "no ballot's proposer": (PREPARE, lambda m: setattr(m.prepare.ballot, "proposer", "x"), "peer id"),
    "ballot too high": (PREPARE, lambda m: setattr(m.prepare.ballot, "counter", 2**63), "below"),
    "no candidates": (PREPARE, lambda m: m.prepare.ClearField("candidates"), "without candidates"),
    "a candidate twice": (PREPARE, lambda m: m.prepare.candidates.append(m.prepare.candidates[0]), "twice"),
    "a reason too long": (PREPARE, lambda m: setattr(m.prepare, "reason", "x" * 501), "at most 500"),
    "a reason with escapes": (PREPARE, lambda m: setattr(m.prepare, "reason", "\x1b[2J"), "control"),
    "another's report": (PROMISE, lambda m: setattr(m.promise.report, "peer", B.id), "another peer's report"),
    "no report": (PROMISE, lambda m: m.promise.ClearField("report"), "peer id"),
    "no epoch": (INSTALL, lambda m: m.install.ClearField("epoch"), "without members"),
    "a member twice": (INSTALL, lambda m: m.install.epoch.members.append(m.install.epoch.members[0]), "twice"),
    "a member's round": (INSTALL, lambda m: setattr(m.install.epoch.members[0], "since", 2**63), "below"),
    "a stranger's branch": (INSTALL, lambda m: m.install.decision.brought.append("d" * 32), "not in its epoch"),
    "a lineage of others": (UNITE, lambda m: m.unite.members.pop(0), "its speaker is not in"),
    "a lineage of nobody": (UNITE, lambda m: m.unite.ClearField("members"), "its speaker is not in"),
    "a foreign holder": (INSTALL, lambda m: m.install.decision.holders.append("d" * 32), "holders"),
    "a holder twice": (INSTALL, lambda m: m.install.decision.holders.append(A.id), "twice"),
    "no one lost": (INSTALL, lambda m: setattr(m.install.decision.lost[0], "peer", ""), "peer id"),
    "a giant epoch": (ANNOUNCE, lambda m: setattr(m.announce.standing, "size", 10_001), "below"),
    "a long digest": (Admit(A, ""), lambda m: setattr(m.admit, "job", "x" * 129), "at most 128"),
}


@pytest.mark.parametrize("name", REJECTED)
def test_out_of_bounds_is_refused_in_one_line(name: str) -> None:
    message, spoil, expected = REJECTED[name]
    wire = round_message_to_wire(message)
    spoil(wire)
    with pytest.raises(ValueError, match=expected) as caught:
        round_message_from_wire(wire)
    assert "\n" not in str(caught.value)


def test_negative_numbers_do_not_leave() -> None:
    with pytest.raises(ValueError, match="range"):
        round_message_to_wire(replace(PREPARE, ballot=Ballot(-1)))


def test_too_many_members_are_refused_before_any_is_looked_at() -> None:
    wire = pb.RoundMessage(sender=round_message_to_wire(PREPARE).sender)
    wire.install.epoch.members.extend([pb.EpochMember()] * 10_001)
    with pytest.raises(ValueError, match="at most 10000 members"):
        round_message_from_wire(wire)
