"""How long a suspect may take to refute."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_p2p.membership import SwimConfig
from lepton_p2p.membership.suspicion import Suspicion

WAN = SwimConfig.wan()


def test_the_formula() -> None:
    suspicion = Suspicion(WAN, 100, 0.0, "a", "why")
    least, most = 6 * 2 * 5.0, 6 * 6 * 2 * 5.0  # multiplier · log10(100) · interval, six times that
    for confirmations, origin in enumerate(["b", "c", "d", "e"], start=1):
        assert suspicion.confirm(origin)
        expected = most - math.log(confirmations + 1) / math.log(4 + 1) * (most - least)
        assert suspicion.timeout == pytest.approx(expected)
    assert suspicion.timeout == pytest.approx(least)


def test_a_witness_counts_once_and_more_than_needed_are_not_news() -> None:
    suspicion = Suspicion(SwimConfig.lan(), 100, 0.0, "a", "why")
    assert [suspicion.confirm(o) for o in ("a", "b", "b", "c", "d")] == [False, True, False, True, False]
    assert suspicion.origins == ["a", "b", "c"]


@given(members=st.integers(1, 3))
def test_where_nobody_can_confirm_the_wait_is_the_shortest(members: int) -> None:
    suspicion = Suspicion(SwimConfig.lan(), members, 10.0, "a", "why")
    assert suspicion.deadline == 10.0 + 4 * 1.0
    assert not suspicion.confirm("b")


def test_a_standstill_of_the_watcher_is_added() -> None:
    suspicion = Suspicion(SwimConfig.lan(), 2, 10.0, "a", "why")
    before = suspicion.deadline
    suspicion.postpone(7.5)
    assert suspicion.deadline == before + 7.5


@given(members=st.integers(1, 10_000), witnesses=st.lists(st.sampled_from("abcdefgh"), max_size=12))
def test_it_only_ever_gets_shorter_and_stays_within_its_bounds(members: int, witnesses: list[str]) -> None:
    suspicion = Suspicion(WAN, members, 0.0, "a", "why")
    last = suspicion.deadline
    assert last == pytest.approx(suspicion.maximum)
    for origin in witnesses:
        news = suspicion.confirm(origin)
        assert (suspicion.deadline < last) == news
        last = suspicion.deadline
        assert suspicion.minimum <= last <= suspicion.maximum
