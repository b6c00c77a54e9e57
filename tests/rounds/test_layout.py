"""How a buffer is cut: everything once, whole elements, no chunk larger than allowed."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_p2p.rounds.layout import Group, Layout

ITEMSIZES = {"uint8": 1, "int16": 2, "float32": 4, "float64": 8}


@st.composite
def groups(draw: st.DrawFn) -> list[Group]:
    """Groups as packing makes them: in one buffer, each at a multiple of 64 bytes."""
    found, end = [], 0
    for dtype in draw(st.lists(st.sampled_from(sorted(ITEMSIZES)), max_size=4, unique=True)):
        start = -(-end // 64) * 64
        end = start + draw(st.integers(0, 3000)) * ITEMSIZES[dtype]
        found.append(Group(dtype, ITEMSIZES[dtype], start, end))
    return found


@given(groups(), st.integers(1, 9), st.integers(64, 4096))
def test_an_even_layout_covers_every_element_once_in_order(parts: list[Group], world: int, chunk_bytes: int) -> None:
    layout = Layout.even(parts, world, chunk_bytes=chunk_bytes)
    covered = [byte for chunk in layout.chunks() for byte in range(chunk.start, chunk.stop)]
    assert covered == [byte for group in parts for byte in range(group.start, group.stop)]
    assert layout.payload == len(covered)


@given(groups(), st.integers(1, 9), st.integers(64, 4096))
def test_chunks_are_bounded_hold_whole_elements_of_one_group_and_are_never_missing(
    parts: list[Group], world: int, chunk_bytes: int
) -> None:
    layout = Layout.even(parts, world, chunk_bytes=chunk_bytes)
    assert len(layout.segments) == world
    for number, segment in enumerate(layout.segments):
        assert [chunk.index for chunk in segment] == list(range(len(segment)))
        assert segment
        for chunk in segment:
            assert chunk.segment == number
            assert chunk.nbytes <= chunk_bytes
            if chunk.nbytes:
                (home,) = [group for group in parts if group.start <= chunk.start and chunk.stop <= group.stop]
                assert chunk.dtype == home.dtype
                assert (chunk.start - home.start) % home.itemsize == chunk.nbytes % home.itemsize == 0


@given(groups(), st.integers(1, 9))
def test_segments_have_nearly_the_same_size(parts: list[Group], world: int) -> None:
    layout = Layout.even(parts, world, chunk_bytes=4096)
    sizes = [sum(chunk.nbytes for chunk in segment) for segment in layout.segments]
    # A cut moves by less than 64 bytes, and a cut that falls into the end of a group may move to it.
    assert max(sizes) - min(sizes) <= 2 * 64


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=6), st.integers(64, 1024))
def test_slots_are_one_segment_per_rank_at_the_sum_of_the_sizes_before_it(sizes: list[int], chunk_bytes: int) -> None:
    layout = Layout.slots(sizes, chunk_bytes=chunk_bytes)
    assert layout.total == sum(sizes)
    for rank, segment in enumerate(layout.segments):
        assert segment[0].start == sum(sizes[:rank])
        assert segment[-1].stop == sum(sizes[: rank + 1])
        assert all(left.stop == right.start for left, right in pairwise(segment))
        assert all(chunk.nbytes <= chunk_bytes for chunk in segment)


def test_what_cannot_be_laid_out_is_refused() -> None:
    with pytest.raises(ValueError, match="whole elements"):
        Group("float32", 4, 0, 6)
    with pytest.raises(ValueError, match="disjoint"):
        Layout.even([Group("uint8", 1, 0, 10), Group("uint8", 1, 5, 20)], 2)
    with pytest.raises(ValueError, match="at least 64 bytes"):
        Layout.even([Group("uint8", 1, 0, 10)], 2, chunk_bytes=8)
