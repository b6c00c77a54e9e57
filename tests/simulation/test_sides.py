"""Which side goes on, and which may not."""

from __future__ import annotations

from itertools import pairwise

from lepton_p2p.identity import PeerId
from lepton_p2p.simulation.sides import Sides

A, B, C = (PeerId(letter * 32) for letter in "abc")


def walk(sides: Sides, who: PeerId, *states: int, members: tuple[PeerId, ...] = ()) -> list[bool]:
    """From each state to the next."""
    steps = pairwise(states)
    return [sides.step(who, before, after, members or (who,)) for before, after in steps]


def test_both_may_hold_a_result_of_the_round_at_the_split_but_one_goes_on_from_it() -> None:
    sides = Sides()
    assert all(walk(sides, A, 0, 1, 2, 3, 4))
    assert walk(sides, B, 1, 20, 30) == [True, False]


def test_of_a_longer_history_apart_the_first_step_is_the_wrong_one() -> None:
    sides = Sides()
    assert all(walk(sides, A, 0, 1, 2))
    assert walk(sides, B, 1, 20, 30) == [True, True]
    assert walk(sides, A, 2, 3) == [False]


def test_who_was_founded_apart_from_the_same_state_is_no_side() -> None:
    sides = Sides()
    assert all(walk(sides, A, 0, 1, 2, 3))
    assert all(walk(sides, B, 0, 10, 20, 30))


def test_who_goes_over_to_the_others_ends_its_own_side() -> None:
    sides = Sides()
    for who in (A, B):
        assert all(walk(sides, who, 0, 1, 2, 3))
    assert all(walk(sides, C, 1, 20))
    assert all(walk(sides, C, 20, 30, 40, members=(B, C)))
    assert walk(sides, A, 3, 4, 5) == [True, False], "what was under way may end; but nobody goes on from it"


def test_who_has_left_does_not_go_on() -> None:
    sides = Sides()
    for who in (A, B):
        assert all(walk(sides, who, 0, 1, 2, 3))
    sides.left(A)
    assert walk(sides, C, 1, 20, 30) == [True, False], "B is there"
    sides.left(B)
    assert walk(sides, C, 1, 21, 31) == [True, True]


def test_who_catches_up_repeats_what_has_been() -> None:
    sides = Sides()
    for who in (A, B):
        assert all(walk(sides, who, 0, 1, 2, 3))
    assert all(walk(sides, C, 1, 20))
    assert all(walk(sides, C, 20, 30, members=(B, C)))
    assert all(walk(sides, C, 1, 2, 3))
    assert walk(sides, C, 3, 4, 5) == [True, False]
