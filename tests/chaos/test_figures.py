"""Percentiles and slopes, against their definitions."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.figures import percentile, slope, spread

values = st.lists(st.floats(0, 1e6), min_size=1, max_size=50)
times = st.lists(st.floats(0, 1e4), min_size=2, max_size=20, unique_by=lambda at: round(at))


@given(values, st.floats(0, 1))
def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed(found: list[float], part: float) -> None:
    at = percentile(found, part)
    assert at in found
    assert sum(value <= at for value in found) >= part * len(found) - 1e-9
    smaller = [value for value in found if value < at]
    assert not smaller or len(smaller) < math.ceil(part * len(found))


def test_the_spread_of_nothing_has_no_percentiles() -> None:
    assert spread([]) == {"count": 0}
    assert spread([3.0, 1.0, 2.0]) == {"count": 3, "p50": 2.0, "p99": 3.0, "max": 3.0}


@given(st.lists(st.tuples(times, st.floats(-1e3, 1e3)), min_size=1, max_size=5), st.floats(-10, 10))
def test_what_grows_alike_from_different_levels_has_that_slope(
    found: list[tuple[list[float], float]], grows: float
) -> None:
    series = [[(at, level + grows * at) for at in sorted(ats)] for ats, level in found]
    assert slope(series) == pytest.approx(grows, abs=1e-6)


def test_a_long_life_weighs_more_than_many_short_ones() -> None:
    long = [(float(at), 0.0) for at in range(1000)]
    short = [[(float(at), 5.0 * at) for at in range(3)] for _ in range(20)]
    steep = slope([long, *short])
    assert steep is not None
    assert 0 < steep < 0.001


def test_without_two_times_there_is_no_slope() -> None:
    assert slope([]) is None
    assert slope([[], [(1.0, 2.0)]]) is None
