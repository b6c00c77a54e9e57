"""How an interval is written, and what is none."""

from __future__ import annotations

import pytest

from lepton_p2p.durability import Durability, Interval
from lepton_p2p.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "interval"),
    [
        ("100", Interval(steps=100)),
        ("60s", Interval(seconds=60.0)),
        ("0.5s", Interval(seconds=0.5)),
        ("5m", Interval(seconds=300.0)),
        ("1h", Interval(seconds=3600.0)),
        ("off", None),
    ],
)
def test_an_interval_is_a_number_of_steps_or_a_time(text: str, interval: Interval | None) -> None:
    assert Interval.parse(text) == interval


@pytest.mark.parametrize("text", ["", "0", "0s", "-1", "1.5", "1 m", "5min", "1e3", "nan", "1d", "٣s", "s"])
def test_anything_else_is_refused_with_how_to_write_it(text: str) -> None:
    with pytest.raises(ConfigError, match="60s"):
        Interval.parse(text)


def test_at_least_one_checkpoint_is_kept() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        Durability(keep=0)
