"""The order in which a member sends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_p2p.rounds.outbox import Outbox


def test_what_passes_by_goes_before_what_starts_here() -> None:
    outbox = Outbox(["own 1", "own 2"])
    assert outbox.next() == "own 1"
    outbox.forward("theirs")
    assert outbox.passing
    assert [outbox.next(), outbox.next(), outbox.next()] == ["theirs", "own 2", None]
    assert not outbox.passing


def test_only_a_window_of_own_chunks_is_under_way() -> None:
    outbox = Outbox([1, 2, 3], window=2)
    assert [outbox.next(), outbox.next(), outbox.next()] == [1, 2, None]
    outbox.forward(9)
    assert [outbox.next(), outbox.next()] == [9, None]
    outbox.returned()
    assert [outbox.next(), outbox.next()] == [3, None]


def test_the_rest_comes_without_regard_to_the_window() -> None:
    outbox = Outbox([1, 2, 3], window=1)
    outbox.next()
    outbox.forward(9)
    assert outbox.rest() == [9, 2, 3]
    assert outbox.rest() == []
    assert outbox.next() is None


def test_what_is_cleared_is_not_sent() -> None:
    outbox = Outbox([1, 2])
    outbox.forward(9)
    outbox.clear()
    assert outbox.next() is None


def test_a_window_lets_something_out() -> None:
    with pytest.raises(ValueError, match="window of 0"):
        Outbox([1], window=0)


@given(st.integers(0, 20), st.one_of(st.none(), st.integers(1, 5)), st.lists(st.sampled_from("fnr"), max_size=60))
def test_everything_goes_out_once_and_in_order(own: int, window: int | None, calls: list[str]) -> None:
    outbox = Outbox([("own", n) for n in range(own)], window)
    forwarded = under_way = 0
    sent: list[tuple[str, int]] = []
    for call in calls:
        if call == "f":
            outbox.forward(("theirs", forwarded))
            forwarded += 1
        elif call == "r" and under_way:
            under_way -= 1
            outbox.returned()
        elif call == "n" and (item := outbox.next()) is not None:
            under_way += item[0] == "own"
            sent.append(item)
            assert window is None or under_way <= window
    sent += outbox.rest()
    assert [n for kind, n in sent if kind == "own"] == list(range(own))
    assert [n for kind, n in sent if kind == "theirs"] == list(range(forwarded))
