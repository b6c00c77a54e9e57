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


def with_a_result() -> Progress:
    """It holds the result of the 18th round, the work in that is 43."""
    progress = newcomer(tried=False)
    assert progress.start_attempt()
    progress.decide_round(5, 3)
    assert (progress.completed, progress.work) == (18, 43)
    return progress


def test_where_the_state_begins_holds_also_if_others_have_yet_to_see_it_in_the_same_result() -> None:
    """They promised before they had: a lineage that nobody holds would go on claiming work."""
    progress = with_a_result()
    progress.begin(0)
    for _ in range(2):
        assert progress.install(Decision(18, 5, (), 43, origin=40), newcomer=False, member=True) == Verdict()
        assert (progress.work, progress.origin) == (0, 0)
    progress.worked(7)
    progress.install(Decision(18, 5, (), 43, origin=40), newcomer=False, member=True)
    assert (progress.work, progress.origin) == (7, 0)


def test_what_others_have_come_to_since_the_state_began_counts_as_ever() -> None:
    """Without any round: gossip tells its work so."""
    progress = with_a_result()
    progress.begin(2)
    progress.worked(7)
    progress.install(Decision(18, 5, (), 12, origin=2), newcomer=False, member=True)
    assert (progress.work, progress.origin) == (12, 2)


def test_but_the_results_of_later_rounds_say_what_it_has_come_to() -> None:
    progress = with_a_result()
    progress.begin(0)
    progress.install(Decision(19, 6, (), 50, origin=0), newcomer=False, member=True)
    assert progress.recovering == 19
    progress.recovered(6, 3)
    assert progress.work == 50
    progress.install(Decision(19, 6, (), 52, origin=2), newcomer=False, member=True)
    assert (progress.work, progress.origin) == (52, 2)


def test_and_who_comes_to_another_lineage_takes_its_word() -> None:
    progress = with_a_result()
    progress.begin(0)
    progress.install(Decision(18, 9, (), 77, origin=3), newcomer=True, member=False)
    assert (progress.work, progress.origin) == (77, 3)
    progress.install(Decision(18, 9, (), 78, origin=3), newcomer=True, member=True)
    assert (progress.work, progress.origin) == (78, 3)
