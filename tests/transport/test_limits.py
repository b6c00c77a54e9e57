"""The token bucket."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_p2p.transport.limits import TokenBucket


@given(
    burst=st.integers(1, 20),
    rate=st.floats(0.1, 10.0),
    gaps=st.lists(st.floats(0.0, 5.0), min_size=1, max_size=200),
)
def test_never_more_than_the_burst_and_the_rate_allow(burst: int, rate: float, gaps: list[float]) -> None:
    bucket, now, taken = TokenBucket(burst, rate), 0.0, 0
    for gap in gaps:
        now += gap
        taken += bucket.take(now)
    assert taken <= burst + rate * (now - gaps[0]) + 1e-6
    assert taken >= min(burst, len(gaps))


def test_what_was_refused_comes_back_with_time_and_not_beyond_the_burst() -> None:
    bucket = TokenBucket(2, 0.5)
    assert [bucket.take(0.0) for _ in range(3)] == [True, True, False]
    assert not bucket.take(1.9)
    assert bucket.take(2.1)
    assert [bucket.take(1000.0) for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize("back", [-1.0, -1e9])
def test_a_clock_that_goes_back_gives_nothing(back: float) -> None:
    bucket = TokenBucket(1, 1.0)
    assert bucket.take(0.0)
    assert not bucket.take(back)
