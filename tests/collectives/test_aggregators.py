"""What robust rules promise, for any values."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_p2p.collectives.aggregators import aggregate, is_finite
from lepton_p2p.rounds.aggregation import Aggregation, Rule

RULES = [Aggregation(rule.value) for rule in Rule]
LARGE = 2.0**127
numbers = st.floats(-LARGE, LARGE, width=32)


@st.composite
def rows(draw: st.DrawFn, least: int = 1, most: int = 9) -> torch.Tensor:
    """float32 [members, elements]."""
    members, elements = draw(st.integers(least, most)), draw(st.integers(1, 12))
    values = st.lists(numbers, min_size=elements, max_size=elements)
    return torch.tensor([draw(values) for _ in range(members)], dtype=torch.float32)


def one(values: torch.Tensor, aggregation: Aggregation, share: float = 1.0) -> torch.Tensor:
    (made,) = aggregate([values], aggregation, share=share)
    return made


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.rule)
@settings(deadline=None)
@given(values=rows(most=1), members=st.integers(1, 9))
def test_the_mean_of_equal_inputs_is_the_input(rule: Aggregation, values: torch.Tensor, members: int) -> None:
    assert torch.equal(one(values.expand(members, -1), rule), values[0])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.rule)
@settings(deadline=None)
@given(values=rows())
def test_whatever_is_finite_makes_something_finite_of_the_same_dtype(rule: Aggregation, values: torch.Tensor) -> None:
    made = one(values, rule)
    assert made.dtype == torch.float32
    assert made.shape == values.shape[1:]
    assert is_finite(made)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.rule)
@pytest.mark.parametrize("signs", [(1, -1, 1, 0), (1, 1, 1, 1), (1, 1, 1, -1)], ids=str)
def test_not_even_the_largest_doubles_make_an_infinity(rule: Aggregation, signs: tuple[int, ...]) -> None:
    largest = torch.finfo(torch.float64).max
    values = torch.tensor([[sign * largest] * 3 for sign in signs], dtype=torch.float64)
    assert is_finite(one(values, rule))


@pytest.mark.parametrize("rule", [Aggregation("median"), Aggregation("trimmed_mean", trim=2)], ids=lambda r: r.rule)
@settings(deadline=None)
@given(values=rows(), seed=st.integers(0, 2**32))
def test_the_order_of_members_changes_nothing_for_rules_that_sort(
    rule: Aggregation, values: torch.Tensor, seed: int
) -> None:
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(one(values, rule), one(values[order], rule))


@pytest.mark.parametrize("rule", [Aggregation("clip"), Aggregation("centered_clip")], ids=lambda rule: rule.rule)
@settings(deadline=None)
@given(seed=st.integers(0, 2**32))
def test_the_order_of_members_changes_nothing_but_rounding_for_the_others(rule: Aggregation, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(7, 50, generator=generator)
    order = torch.randperm(7, generator=generator)
    torch.testing.assert_close(one(values, rule), one(values[order], rule))


@settings(deadline=None)
@given(values=rows(least=3), trim=st.integers(1, 4), data=st.data())
def test_as_many_poisoners_as_are_trimmed_cannot_leave_the_range_of_the_others(
    values: torch.Tensor, trim: int, data: st.DataObject
) -> None:
    for rule in (Aggregation("trimmed_mean", trim=trim), Aggregation("median")):
        bad = data.draw(st.integers(0, rule.trimmed(len(values))))
        honest = values[bad:]
        made = one(values, rule)
        assert bool((made >= honest.amin(0)).all())
        assert bool((made <= honest.amax(0)).all())


def test_the_trimmed_mean_is_the_mean_of_what_is_left() -> None:
    values = torch.tensor([[5.0, -1e30], [1.0, 2.0], [2.0, 3.0], [3.0, 4.0], [-7.0, 1e30]])
    assert one(values, Aggregation("trimmed_mean")).tolist() == [2.0, 3.0]
    assert one(values[:2], Aggregation("trimmed_mean")).tolist() == pytest.approx([3.0, -5e29]), (
        "of two nothing can be trimmed"
    )


@pytest.mark.parametrize("members", [1, 2, 3, 8, 9, 33, 40])
def test_the_median_is_the_middle_or_the_mean_of_the_two(members: int) -> None:
    values = torch.randn(members, 100, generator=torch.Generator().manual_seed(members))
    ordered = values.sort(0).values.double()
    expected = (ordered[(members - 1) // 2] + ordered[members // 2]) / 2
    torch.testing.assert_close(one(values, Aggregation("median")), expected.float())


def test_clipping_changes_the_length_of_long_contributions_only() -> None:
    values = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    made = one(values, Aggregation("clip", norm=1.0))
    torch.testing.assert_close(made, torch.tensor([(0.6 + 0.3) / 3, (0.8 + 0.4) / 3]))
    assert one(values, Aggregation("clip", norm=5.0)).tolist() == pytest.approx([1.1, 4.4 / 3])


@settings(deadline=None)
@given(values=rows(), norm=st.floats(1e-3, 1e30))
def test_nothing_clipped_is_longer_than_asked_for(values: torch.Tensor, norm: float) -> None:
    assert float(one(values, Aggregation("clip", norm=norm)).double().norm()) <= norm * (1 + 1e-6)


@settings(deadline=None)
@given(values=rows(), bad=st.lists(numbers, min_size=12, max_size=12))
def test_by_default_one_that_is_much_longer_counts_as_the_median_of_the_lengths(
    values: torch.Tensor, bad: list[float]
) -> None:
    poisoned = values.clone()
    poisoned[0] = torch.tensor(bad[: values.shape[1]])
    longest_honest = max((float(row.double().norm()) for row in values[1:]), default=math.inf)
    if len(values) > 2:
        assert float(one(poisoned, Aggregation("clip")).double().norm()) <= longest_honest * (1 + 1e-6)


@settings(deadline=None)
@given(values=rows(), radius=st.floats(1e-3, 1e30), passes=st.integers(1, 5))
def test_every_pass_moves_the_centre_by_at_most_the_radius(values: torch.Tensor, radius: float, passes: int) -> None:
    values = values.double()
    centre = one(values, Aggregation("median"))
    for number in range(1, passes + 1):
        moved = one(values, Aggregation("centered_clip", radius=radius, iterations=number))
        assert float((moved - centre).norm()) <= radius * (1 + 1e-6) + 1e-6 * float(values.abs().max())
        centre = moved


def test_a_radius_that_reaches_everybody_leads_to_the_mean() -> None:
    values = torch.randn(6, 20, generator=torch.Generator().manual_seed(1))
    made = one(values, Aggregation("centered_clip", radius=1e6, iterations=1))
    torch.testing.assert_close(made, values.mean(0))


@settings(deadline=None)
@given(seed=st.integers(0, 2**32), scale=st.floats(1.0, 1e12), bad=st.integers(1, 3))
def test_clipping_around_a_centre_stays_near_the_honest_mean(seed: int, scale: float, bad: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    honest = 5.0 + torch.randn(8 - bad, 200, generator=generator)
    poison = scale * torch.randn(bad, 200, generator=generator)
    made = one(torch.cat([poison, honest]), Aggregation("centered_clip"))
    spread = float((honest - honest.mean(0)).norm(dim=1).max())
    assert float((made - honest.mean(0)).norm()) <= 2 * spread


def test_norms_are_of_all_parts_together() -> None:
    whole = torch.randn(5, 100, generator=torch.Generator().manual_seed(2)).double()
    for rule in (Aggregation("clip"), Aggregation("clip", norm=2.0), Aggregation("centered_clip")):
        cut = aggregate([whole[:, :30], whole[:, 30:]], rule)
        torch.testing.assert_close(torch.cat(cut), one(whole, rule))


@pytest.mark.parametrize("rule", [Aggregation("clip", norm=2.0), Aggregation("centered_clip", radius=2.0)])
def test_a_length_for_the_whole_is_shared_out_by_the_root_of_the_share(rule: Aggregation) -> None:
    values = torch.randn(5, 100, generator=torch.Generator().manual_seed(3))
    name = "norm" if rule.norm is not None else "radius"
    assert torch.equal(one(values, rule, share=0.25), one(values, Aggregation(rule.rule, **{name: 1.0})))


def test_long_tensors_are_aggregated_block_by_block() -> None:
    values = torch.randn(4, (1 << 15) * 2 + 7, generator=torch.Generator().manual_seed(4))
    for rule in (Aggregation("median"), Aggregation("clip", norm=10.0)):
        whole = one(values, rule)
        if rule.rule == "median":
            assert torch.equal(whole[-7:], one(values[:, -7:], rule))
        else:
            factors = (10.0 / values.double().norm(dim=1)).clamp(max=1.0)
            torch.testing.assert_close(whole, (factors @ values.double() / 4).float())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_seen(bad: float) -> None:
    values = torch.zeros(1000)
    assert is_finite(values)
    assert is_finite(values[:0])
    values[777] = bad
    assert not is_finite(values)
