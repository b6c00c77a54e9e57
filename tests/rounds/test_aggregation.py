"""What may be asked for in the place of a mean, and what is left of it with few members."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from lepton_p2p.rounds.aggregation import Aggregation, Rule


@pytest.mark.parametrize("rule", list(Rule))
def test_every_rule_works_without_options(rule: Rule) -> None:
    assert Aggregation.of(rule.value) == Aggregation(rule.value)


@pytest.mark.parametrize("choice", [None, "mean"])
def test_the_mean_is_no_robust_rule(choice: str | None) -> None:
    assert Aggregation.of(choice) is None


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"rule": "krum"}, "clip, trimmed_mean, median, centered_clip, or mean without options, not 'krum'"),
        ({"rule": "mean"}, "or mean without options"),
        ({"rule": "median", "trim": 1}, "trim is an option of trimmed_mean, not of median: leave it out"),
        ({"rule": "clip", "radius": 1.0}, "radius is an option of centered_clip, not of clip"),
        ({"rule": "centered_clip", "norm": 1.0}, "norm is an option of clip, not of centered_clip"),
        ({"rule": "clip", "iterations": 2}, "iterations is an option of centered_clip, not of clip"),
        ({"rule": "trimmed_mean", "trim": 0}, "trim is a whole number from 1 to 1000, not 0"),
        ({"rule": "trimmed_mean", "trim": True}, "trim is a whole number"),
        ({"rule": "trimmed_mean", "trim": 1.0}, "trim is a whole number"),
        ({"rule": "centered_clip", "iterations": 101}, "iterations is a whole number from 1 to 100, not 101"),
        ({"rule": "clip", "votes": -1}, "votes is a whole number from 0 to 1000, not -1"),
        ({"rule": "centered_clip", "radius": 0.0}, "radius is above 0"),
        ({"rule": "clip", "norm": math.nan}, "norm is above 0"),
        ({"rule": "clip", "norm": math.inf}, "norm is above 0"),
        ({"rule": "clip", "norm": "1"}, "norm is a number, not '1'"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)) as raised:
        Aggregation(**options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("trim", "members", "trimmed"),
    [(1, 8, 1), (2, 8, 2), (3, 8, 3), (4, 8, 3), (2, 5, 2), (2, 4, 1), (2, 3, 1), (2, 2, 0), (2, 1, 0), (1, 0, 0)],
)
def test_as_many_are_trimmed_as_leave_something(trim: int, members: int, trimmed: int) -> None:
    assert Aggregation("trimmed_mean", trim=trim).trimmed(members) == trimmed


def test_a_trimmed_mean_that_trims_all_it_can_is_the_median() -> None:
    for members in range(10):
        most = Aggregation("trimmed_mean", trim=1000).trimmed(members)
        assert Aggregation("median").trimmed(members) == most
        assert members == 0 or members - 2 * most in (1, 2)


def test_rules_that_do_not_trim_say_so() -> None:
    assert Aggregation("clip").trimmed(8) == Aggregation("centered_clip").trimmed(8) == 0


def test_members_aggregate_alike_only_with_the_same_options() -> None:
    different = [
        Aggregation("clip"),
        Aggregation("clip", norm=1.0),
        Aggregation("clip", norm=2.0),
        Aggregation("median"),
        Aggregation("median", votes=1),
        Aggregation("trimmed_mean", trim=1),
        Aggregation("trimmed_mean", trim=2),
        Aggregation("centered_clip"),
        Aggregation("centered_clip", radius=1.0),
        Aggregation("centered_clip", iterations=1),
    ]
    assert len({one.schema for one in different}) == len(different)
