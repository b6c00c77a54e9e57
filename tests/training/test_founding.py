"""Whose state a training starts from: a pure function of what the members say of themselves."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import pytest

from lepton_p2p.identity import PeerId
from lepton_p2p.rounds.result import RoundResult
from lepton_p2p.training.lockstep import founders_of
from lepton_p2p.training.notes import Note, NoteFlag

PEERS = tuple(PeerId(f"{index:032x}") for index in (7, 3, 5))
ENTERING = NoteFlag.WANTS_STATE | NoteFlag.FRESH


def fresh(seed: int = 1, seen: int | None = None) -> Note:
    return Note(ENTERING, seen=seen, seed=seed)


def result(notes: Sequence[Note | None], round: int = 1) -> RoundResult:
    said = {peer: note.encode() if note else b"?" for peer, note in zip(PEERS, notes, strict=False)}
    members = tuple(said)
    return RoundResult(1, round, 1, members, (), (), members, (), 0.0, 1, MappingProxyType(said))


def test_all_that_start_from_the_same_state_found_together() -> None:
    assert set(founders_of(result([fresh(seen=0), fresh(seen=0), fresh(seen=0)]))) == set(PEERS)


def test_of_different_states_that_of_the_first_member_counts_and_who_holds_the_same_founds_too() -> None:
    assert set(founders_of(result([fresh(9, 0), fresh(2, 0), fresh(9, 0)]))) == {PEERS[0], PEERS[2]}


def test_one_that_saw_all_rounds_is_enough_to_know_that_nothing_was_lost() -> None:
    assert set(founders_of(result([fresh(), fresh(seen=7), fresh()], round=8))) == set(PEERS)


@pytest.mark.parametrize("seen", [None, 0, 6, 8])
def test_if_nobody_saw_all_rounds_those_that_held_the_state_may_have_died(seen: int | None) -> None:
    assert not founders_of(result([fresh(), fresh(seen=seen), fresh()], round=8))


@pytest.mark.parametrize(
    "other", [Note(NoteFlag.READY), Note(NoteFlag.WANTS_STATE), Note(), None], ids=["ready", "dropped", "busy", "junk"]
)
def test_nobody_founds_while_somebody_may_hold_the_state_or_has_seen_the_training(other: Note | None) -> None:
    assert not founders_of(result([fresh(seen=0), other, fresh(seen=0)]))
