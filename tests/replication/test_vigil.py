"""How long members wait for somebody who holds the state."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lepton_p2p.replication.vigil import Vigil


def test_it_lasts_from_the_first_round_without_a_holder_until_patience_is_over() -> None:
    vigil = Vigil(30.0)
    assert not vigil.begun
    assert not vigil.keep(100.0, 0)
    assert vigil.begun
    assert (vigil.waited(117.5), vigil.keep(129.9, 17), vigil.keep(130.0, 0)) == (17, False, True)


def test_it_begins_anew_when_somebody_held_the_state_meanwhile() -> None:
    vigil = Vigil(30.0)
    vigil.keep(100.0, 0)
    vigil.end()
    assert vigil.waited(120.0) == 0
    assert not vigil.keep(131.0, 0)


def test_who_comes_late_gives_up_with_those_that_have_waited() -> None:
    vigil = Vigil(30.0)
    assert not vigil.keep(0.0, 29)
    assert vigil.keep(1.0, 0)


@given(st.lists(st.floats(0, 5), min_size=1, max_size=20), st.integers(1, 5))
def test_all_members_give_up_within_a_round_of_the_first(pauses: list[float], members: int) -> None:
    vigils = [Vigil(10.0) for _ in range(members)]
    now, given_up = 0.0, list[int]()
    for number, pause in enumerate([*pauses, 5.0, 5.0, 5.0]):
        now += pause
        waited = max(vigil.waited(now) for vigil in vigils)
        ends = [vigil.keep(now, waited) for vigil in vigils]
        given_up += [number for end in ends if end]
        if given_up:
            break
    assert len(given_up) == members
