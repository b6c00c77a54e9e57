"""What a chunk that arrives has to do with where its receiver is."""

from __future__ import annotations

import pytest

from lepton_p2p.rounds.position import Position, Relation

PAST, NOW, LATER = Relation.PAST, Relation.NOW, Relation.LATER


@pytest.fixture
def position() -> Position:
    """In epoch 4 (tag 44), where round 7 is expected."""
    position = Position()
    position.enter(4, 44)
    position.expect(7)
    return position


@pytest.mark.parametrize(
    ("number", "tag", "round", "relation"),
    [
        (4, 44, 7, NOW),
        (4, 44, 8, LATER),
        (4, 44, 6, PAST),
        (3, 33, 7, PAST),
        (4, 45, 7, PAST),  # the same number in another lineage
        (5, 55, 1, LATER),
    ],
)
def test_only_the_expected_round_of_this_very_epoch_is_now(
    position: Position, number: int, tag: int, round: int, relation: Relation
) -> None:
    assert position.relation(number, tag, round) is relation


def test_a_round_that_was_given_up_is_past_and_the_next_one_later(position: Position) -> None:
    position.forget()
    assert position.relation(4, 44, 7) is PAST
    assert position.relation(4, 44, 8) is LATER


def test_a_round_that_is_tried_again_in_the_next_epoch_is_not_past(position: Position) -> None:
    assert position.enter(5, 55)
    assert position.relation(5, 55, 7) is LATER
    position.expect(7)
    assert position.relation(5, 55, 7) is NOW


def test_entering_the_same_epoch_again_changes_nothing(position: Position) -> None:
    position.forget()
    assert not position.enter(4, 44)
    assert position.relation(4, 44, 7) is PAST


def test_who_left_its_lineage_keeps_what_comes_from_one_with_lower_numbers(position: Position) -> None:
    position.leave()
    assert position.relation(2, 22, 1) is LATER
    position.enter(2, 22)
    position.expect(1)
    assert position.relation(2, 22, 1) is NOW
