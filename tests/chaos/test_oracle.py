"""Samples are counted along the trunk, and counted again from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from samples import SampleCounter

from chaos.lineages import Violation
from chaos.oracle import EVERY, Oracle
from chaos.stories import Line, line

A, B = "aaaaaaaa", "bbbbbbbb"
SAMPLES = 12
BATCH = 2


def places(step: int) -> dict[str, range]:
    """Who uses what in step ``step`` (from 1): three steps are a pass."""
    first = (step - 1) % 3 * 2 * BATCH
    return {A: range(first, first + BATCH), B: range(first + BATCH, first + 2 * BATCH)}


def steps(first: int, last: int, *, number: int = 0) -> Iterator[Line]:
    """Those steps, in rounds from ``number`` on (the same as the steps, unless one is given)."""
    for step in range(first, last + 1):
        yield line(number + step - first if number else step, [A, B], step=step, places=places(step))


def oracle_of(*lines: Line) -> Oracle:
    oracle = Oracle(SampleCounter(samples=SAMPLES, seed=1))
    tell(oracle, *lines)
    return oracle


def tell(oracle: Oracle, *lines: Line) -> None:
    for one in lines:
        for peer in (A, B):
            oracle.history.told(peer, dict(one))


def test_passes_with_every_sample_once_are_counted() -> None:
    oracle = oracle_of(*steps(1, 8))
    oracle.settle([A, B])
    assert (oracle.passes, oracle.used) == (2, 8 * 2 * BATCH)


def test_a_sample_that_is_used_twice_is_noticed() -> None:
    again = line(3, [A, B], places=places(2))
    oracle = oracle_of(*steps(1, 2), again)
    with pytest.raises(Violation, match=r"none counted twice: places \[4, 5, 6, 7\] of pass 0"):
        oracle.settle([A, B])


def test_a_sample_that_is_never_used_is_noticed_in_the_next_pass() -> None:
    # The second step of the first pass never happens: its places are missing when the others come again.
    lines = [line(1, [A, B], places=places(1)), line(2, [A, B], places=places(3)), line(3, [A, B], places=places(1))]
    oracle = oracle_of(*lines)
    with pytest.raises(Violation, match="none counted twice"):
        oracle.settle([A, B])


@pytest.mark.parametrize("back_to", [2, EVERY - 1, EVERY, EVERY + 7, 2 * EVERY + 3])
def test_after_the_death_of_all_counting_goes_on_where_the_checkpoint_was(back_to: int) -> None:
    last = 2 * EVERY + 5
    oracle = oracle_of(*steps(1, last))
    oracle.settle([A, B])
    oracle.history.died()
    founding = line(1, [A, B], step=back_to)
    founding["shared"]["contributors"] = []
    tell(oracle, founding, *steps(back_to + 1, back_to + 9, number=2))
    assert oracle.go_back([A, B]) == last - back_to
    assert oracle.used == (back_to + 9) * 2 * BATCH
    assert oracle.passes == (back_to + 9) // 3


def test_samples_that_a_checkpoint_had_already_used_are_not_used_again() -> None:
    oracle = oracle_of(*steps(1, 8))
    oracle.settle([A, B])
    oracle.history.died()
    founding = line(1, [A, B], step=5)
    founding["shared"]["contributors"] = []
    tell(oracle, founding, line(2, [A, B], step=6, places=places(5)))
    with pytest.raises(Violation, match="none counted twice"):
        oracle.go_back([A, B])
