"""Statistics of a run; pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

Series = Sequence[tuple[float, float]]
"""``(seconds, value)``, in order."""


def percentile(values: Sequence[float], part: float) -> float:
    """The smallest of ``values`` that at least ``part`` (0 to 1) of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


def spread(values: Sequence[float]) -> dict[str, float | int]:
    """How many there are, median, p99, and the largest; seconds."""
    if not values:
        return {"count": 0}
    p50, p99 = (round(percentile(values, part), 3) for part in (0.5, 0.99))
    return {"count": len(values), "p50": p50, "p99": p99, "max": round(max(values), 3)}


def slope(series: Iterable[Series]) -> float | None:
    """By how much values grow per second, by least squares: one slope for all series, each with a level of its own.

    Series of processes that live long weigh most.  None if there is no series with two different times.
    """
    up = across = 0.0
    for points in series:
        if not points:
            continue
        middle = sum(at for at, _ in points) / len(points)
        level = sum(value for _, value in points) / len(points)
        up += sum((at - middle) * (value - level) for at, value in points)
        across += sum((at - middle) ** 2 for at, _ in points)
    return up / across if across else None
