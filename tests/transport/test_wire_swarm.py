"""The client API's values survive the wire, and what a hostile peer could answer does not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from control_fakes import STATUS, YOU
from hypothesis import given
from wire_strategies import events, statuses, views

from lepton_p2p.proto.lepton.v1 import swarm_pb2 as pb
from lepton_p2p.transport.values import MemberStatus, StatusReport, SwarmEvent
from lepton_p2p.transport.wire_swarm import (
    event_from_wire,
    event_to_wire,
    members_from_wire,
    members_to_wire,
    status_reply_from_wire,
    status_to_wire,
)

EVENT = SwarmEvent(1.0, "died", YOU.id, "b died", {"members": 1.0})


@given(statuses)
def test_every_status_comes_back_as_it_went(status: StatusReport) -> None:
    assert status_reply_from_wire(pb.StatusReply.FromString(status_to_wire(status).SerializeToString())) == status


@given(views)
def test_every_view_comes_back_as_it_went(view: tuple[MemberStatus, ...]) -> None:
    assert members_from_wire(pb.MembersReply.FromString(members_to_wire(view).SerializeToString())) == view


@given(events)
def test_every_event_comes_back_as_it_went(event: SwarmEvent) -> None:
    assert event_from_wire(pb.Event.FromString(event_to_wire(event).SerializeToString())) == event


def test_a_loss_may_be_unknown_zero_or_not_a_number() -> None:
    for loss in (None, 0.0):
        assert status_reply_from_wire(status_to_wire(replace(STATUS, loss=loss))).loss == loss
    diverged = status_reply_from_wire(status_to_wire(replace(STATUS, loss=math.nan)))
    assert diverged.loss is not None
    assert math.isnan(diverged.loss)


STATUSES: dict[str, tuple[Callable[[pb.StatusReply], object], str]] = {
    "no peer": (lambda s: s.ClearField("peer"), "peer id"),
    "no phase": (lambda s: s.ClearField("phase"), "no phase"),
    "an unknown phase": (lambda s: setattr(s, "phase", 17), "no phase"),
    "terminal escapes": (lambda s: setattr(s, "job_name", "\x1b]0;x\x07"), "control"),
    "a round too high": (lambda s: setattr(s, "round", 2**63), "below"),
    "a member's status": (lambda s: setattr(s.members[0], "status", 9), "no status"),
    "a giant view": (lambda s: s.members.extend([pb.MemberView()] * 10_000), "members"),
    "a giant map": (lambda s: s.metrics.update({str(i): 0.0 for i in range(300)}), "numbers"),
    "a long name in a map": (lambda s: s.metrics.update({"x" * 200: 0.0}), "name"),
}


@pytest.mark.parametrize("name", STATUSES)
def test_statuses_out_of_bounds_are_refused(name: str) -> None:
    spoil, expected = STATUSES[name]
    wire = status_to_wire(STATUS)
    spoil(wire)
    with pytest.raises(ValueError, match=expected):
        status_reply_from_wire(wire)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"kind": "x" * 65}, "kind"),
        ({"peer": "b"}, "peer id"),
        ({"text": "a\nb"}, "text"),
        ({"text": "x" * 501}, "text"),
    ],
)
def test_events_out_of_bounds_are_refused(change: dict[str, str], expected: str) -> None:
    wire = event_to_wire(EVENT)
    for field, value in change.items():
        setattr(wire, field, value)
    with pytest.raises(ValueError, match=expected):
        event_from_wire(wire)


def test_long_texts_of_our_own_are_clipped_not_lost() -> None:
    sent = replace(EVENT, text="first\nsecond " + "x" * 600)
    assert event_from_wire(event_to_wire(sent)).text.startswith("first second xxx")
