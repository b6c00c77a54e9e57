"""Which board a round is made on: only one that everybody has, and everybody finds the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_p2p.identity import PeerId
from lepton_p2p.rounds.board_choice import SMALLEST, agreed, wanted
from lepton_p2p.rounds.records import Flag, Record


def records(*boards: int, flags: Flag = Flag.SHARES) -> list[Record]:
    return [Record(PeerId(f"{rank:032x}"), 1.0, 7, flags=flags, board=board) for rank, board in enumerate(boards)]


@pytest.mark.parametrize(
    ("boards", "found"), [((0, 0), 0), ((3, 3, 3), 3), ((3, 3, 0), 0), ((0, 3, 3), 0), ((3, 5), 0), ((5, 5), 5)]
)
def test_a_board_is_agreed_if_all_named_it(boards: tuple[int, ...], found: int) -> None:
    assert agreed(records(*boards)) == found


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_what_is_agreed_everybody_has(boards: list[int]) -> None:
    number = agreed(records(*boards))
    assert number == 0 or set(boards) == {number}


def test_a_board_is_made_for_the_size_of_the_round() -> None:
    assert wanted(records(0, 0), 10 * SMALLEST, 0) == 10 * SMALLEST
    assert wanted(records(1, 1), 10 * SMALLEST, 10 * SMALLEST) == 0, "there is one"


def test_a_board_that_is_too_small_is_followed_by_one_that_leaves_room() -> None:
    assert wanted(records(1, 1), 11 * SMALLEST, 10 * SMALLEST) == 15 * SMALLEST
    assert wanted(records(1, 1), 100 * SMALLEST, 10 * SMALLEST) == 100 * SMALLEST


def test_small_rounds_are_not_worth_a_board() -> None:
    assert wanted(records(0, 0), SMALLEST - 1, 0) == 0
    assert wanted(records(0, 0), SMALLEST, 0) == SMALLEST


def test_without_shared_memory_all_around_the_ring_there_is_none() -> None:
    ring = records(0, 0, 0)
    ring[1] = Record(ring[1].peer, 1.0, 7, flags=Flag.NON_FINITE)
    assert wanted(ring, 10 * SMALLEST, 0) == 0


def test_nobody_makes_one_for_itself() -> None:
    assert wanted(records(0), 10 * SMALLEST, 0) == 0
