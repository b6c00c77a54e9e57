"""A seed is a whole story: always the same, every kind in each turn, nothing that cannot be done."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from chaos.deeds import Deeds
from chaos.kinds import KINDS
from chaos.schedule import Disturbance, schedule, turn_of, usable

EVERYTHING = usable([], {"network", "disk"})


def story(seed: int, machines: int, count: int, kinds: list[str] = EVERYTHING) -> list[Disturbance]:
    return list(islice(schedule(seed, machines, kinds), count))


@given(st.integers(0, 2**32), st.integers(3, 12))
def test_a_seed_tells_the_same_story_every_time(seed: int, machines: int) -> None:
    assert story(seed, machines, 40) == story(seed, machines, 40)


def test_another_seed_tells_another_story() -> None:
    assert story(1, 5, 10) != story(2, 5, 10)


@given(st.integers(0, 2**32), st.integers(3, 8))
def test_every_kind_comes_once_in_the_first_turn(seed: int, machines: int) -> None:
    first = [one.kinds[0] for one in story(seed, machines, turn_of(EVERYTHING))]
    assert Counter(first) == Counter(EVERYTHING)


def test_rare_kinds_are_rare() -> None:
    kinds = Counter(one.kinds[0] for one in story(3, 5, 16 * turn_of(EVERYTHING)))
    assert kinds["kill"] >= 16
    assert kinds["kill-all"] in (2, 3)


@given(st.integers(0, 2**32), st.integers(3, 8))
def test_whatever_is_planned_can_be_done_and_leaves_a_witness(seed: int, machines: int) -> None:
    witness = machines - 1
    for one in story(seed, machines, 60):
        hit = [victim for mishap in one.mishaps for victim in mishap.victims]
        assert len(hit) == len(set(hit)), f"two things happen to one machine: {one}"
        assert one.mishaps
        for mishap in one.mishaps:
            assert hasattr(Deeds, mishap.deed)
            assert set(mishap.victims) | set(mishap.others) <= set(range(machines))
            assert not set(mishap.victims) & set(mishap.others)
            assert 0 <= mishap.after < 30
            assert 0 <= mishap.lasts <= 20
            if mishap.deed in ("kill", "power", "leave"):
                assert witness not in mishap.victims
        assert one.pause > 0


@given(st.integers(0, 1000), st.sampled_from(sorted(KINDS)))
def test_only_kinds_that_were_asked_for_come(seed: int, kind: str) -> None:
    assert {name for one in story(seed, 4, 8, [kind]) for name in one.kinds} == {kind}


def test_kinds_without_what_they_need_are_left_out() -> None:
    assert "isolate" not in usable([], {"disk"})
    assert "disk" not in usable([], {"network"})
    assert usable(["kill", "isolate"], set()) == ["kill"]


def test_the_documentation_has_every_kind() -> None:
    text = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text()
    assert [kind for kind in KINDS if f"`{kind}`" not in text] == []
