"""Half-open ranges of places in a pass's permutation, and the few operations that the cursor needs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Range(NamedTuple):
    """Places ``start`` .. ``stop - 1``; ``tries``: how often a peer got non-finite numbers from them."""

    start: int
    stop: int
    tries: int = 0

    @property
    def size(self) -> int:
        return self.stop - self.start


def size_of(ranges: Iterable[Range]) -> int:
    """How many places ``ranges`` hold."""
    return sum(item.size for item in ranges)


def join(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """Sorted, with touching ranges of equal ``tries`` made one; the input must be disjoint."""
    joined: list[Range] = []
    for item in sorted(ranges):
        if not item.size:
            continue
        if joined and joined[-1].stop == item.start and joined[-1].tries == item.tries:
            joined[-1] = joined[-1]._replace(stop=item.stop)
        else:
            joined.append(item)
    return tuple(joined)


def split(ranges: Iterable[Range], inside: Iterable[Range]) -> tuple[tuple[Range, ...], tuple[Range, ...]]:
    """``(the part of ranges that is in inside, the rest)``; ``tries`` are those of ``ranges``."""
    within: list[Range] = []
    rest: list[Range] = []
    cuts = join(Range(item.start, item.stop) for item in inside)
    for item in ranges:
        at = item.start
        for cut in cuts:
            start, stop = max(at, cut.start), min(item.stop, cut.stop)
            if start < stop:
                rest.append(Range(at, start, item.tries))
                within.append(Range(start, stop, item.tries))
                at = stop
        rest.append(Range(at, item.stop, item.tries))
    return join(within), join(rest)


def overlap(one: Iterable[Range], other: Iterable[Range]) -> tuple[Range, ...]:
    """Places that are in both (each disjoint); ``tries`` are the higher of the two."""
    theirs = tuple(other)
    common: list[Range] = []
    for left in one:
        for right in theirs:
            start, stop = max(left.start, right.start), min(left.stop, right.stop)
            if start < stop:
                common.append(Range(start, stop, max(left.tries, right.tries)))
    return join(common)
