"""What an installed decision makes of a newcomer's first input: into one result, or none, but never into two."""

from __future__ import annotations

import pytest

from lepton_p2p.rounds.messages import Decision
from lepton_p2p.rounds.progress import Progress, Verdict

SCHEMA = 7


def decided(base: int) -> Decision:
    return Decision(base, 5, (), 40)


def newcomer(*, tried: bool) -> Progress:
    """Its first round is the 18th, and it has handed its input in; ``tried``: an attempt at that has been made."""
    progress = Progress()
    progress.install(decided(17), newcomer=True, member=False)
    progress.hand_in(SCHEMA, 0)
    if tried:
        assert progress.start_attempt()
        progress.halt("cut off")
    return progress


@pytest.mark.parametrize("base", [18, 19, 26])
def test_who_comes_back_behind_a_round_that_its_input_may_be_in_does_not_put_it_into_another(base: int) -> None:
    progress = newcomer(tried=True)
    assert progress.install(decided(base), newcomer=True, member=True) == Verdict(obsolete=True)
    assert (progress.completed, progress.schema) == (base, None)


def test_an_input_that_is_in_no_result_stays_for_the_next_attempt() -> None:
    progress = newcomer(tried=True)
    assert progress.install(decided(17), newcomer=True, member=True) == Verdict()
    assert (progress.next_round, progress.schema) == (18, SCHEMA)


def test_so_does_one_that_was_never_tried_however_far_the_others_went_on() -> None:
    progress = newcomer(tried=False)
    assert progress.install(decided(26), newcomer=True, member=True) == Verdict()
    assert (progress.next_round, progress.schema) == (27, SCHEMA)
