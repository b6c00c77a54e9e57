"""Local health."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lepton_p2p.membership.awareness import Awareness


@given(st.lists(st.integers(-3, 3)), st.integers(1, 9))
def test_the_score_stays_in_its_bounds_and_scales_time_outs(deltas: list[int], limit: int) -> None:
    awareness, expected = Awareness(limit), 0
    for delta in deltas:
        awareness.add(delta)
        expected = min(max(expected + delta, 0), limit - 1)
        assert awareness.score == expected
        assert awareness.scale(0.5) == 0.5 * (expected + 1)
