"""What a member refuses to be part of: records that do not go together with its own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.rounds.epoch import Ballot, Epoch, Member
from lepton_p2p.rounds.inspection import DIFFER, agreeing
from lepton_p2p.rounds.records import Record

A, B, C = (PeerId(letter * 32) for letter in "abc")
EPOCH = Epoch(1, Ballot(1, A), tuple(Member(PeerInfo(peer, "host:1"), 1) for peer in (A, B)))
MINE = Record(A, 1.0, schema=7, previous=70, state=700)
THEIRS = replace(MINE, peer=B)


def look(theirs: Record) -> list[Record]:
    return agreeing(MINE, EPOCH, [MINE.encode(), theirs.encode()])


def test_records_that_go_together_are_what_was_said() -> None:
    assert look(THEIRS) == [MINE, THEIRS]


@pytest.mark.parametrize(
    ("theirs", "says"),
    [
        (replace(THEIRS, peer=C), "who is not a member"),
        (replace(THEIRS, schema=8), f"^{DIFFER}"),
        (replace(THEIRS, previous=71), "differ in the last result"),
        (replace(THEIRS, state=701), "differ in the state before the round"),
    ],
    ids=["stranger", "schema", "last result", "state"],
)
def test_a_record_that_does_not_fit_breaks_the_attempt(theirs: Record, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        look(theirs)


def test_who_holds_nothing_yet_says_nothing_that_could_differ() -> None:
    newcomer = replace(THEIRS, previous=0, state=0)
    assert look(newcomer) == [MINE, newcomer]


def test_what_is_no_record_breaks_the_attempt() -> None:
    with pytest.raises(ValueError, match="a record has at least"):
        agreeing(MINE, EPOCH, [b"junk"])
