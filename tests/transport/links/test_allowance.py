"""An allowance: a burst at once, a rate in the long run, never more."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lepton_p2p.transport.links.allowance import Allowance


def test_a_burst_is_allowed_at_once_and_then_the_rate() -> None:
    allowance = Allowance(3, 2.0)
    assert [allowance.spend(10.0) for _ in range(4)] == [True, True, True, False]
    assert [allowance.spend(10.5) for _ in range(2)] == [True, False]
    assert [allowance.spend(100.0) for _ in range(4)] == [True, True, True, False]


@given(st.lists(st.floats(0, 5), max_size=60), st.integers(1, 10), st.floats(0, 5))
def test_never_more_than_burst_and_rate_in_any_span(pauses: list[float], burst: int, rate: float) -> None:
    allowance, now, taken = Allowance(burst, rate), 0.0, []
    for pause in pauses:
        now += pause
        if allowance.spend(now):
            taken.append(now)
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            assert last - first + 1 <= burst + rate * (taken[last] - taken[first]) + 1e-6
