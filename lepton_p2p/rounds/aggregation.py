"""What stands in the place of a mean, so that a few wrong contributions do not decide it: the choice, without maths.

The maths is in ``collectives/aggregators.py``, the way of the bytes in ``butterfly.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

MAX_TRIM = 1_000
MAX_ITERATIONS = 100
MAX_VOTES = 1_000
LARGEST = 1e30
"""Bound on norms and radii: far above what a gradient has, far below where squares overflow."""


class Rule(StrEnum):
    """What stands in the place of the mean."""

    CLIP = "clip"
    """The mean of contributions that are scaled down to a norm of at most ``norm``."""
    TRIMMED_MEAN = "trimmed_mean"
    """Element by element, the mean without the ``trim`` smallest and largest values (Yin et al. 2018, 1803.01498)."""
    MEDIAN = "median"
    """Element by element, the middle value, or the mean of the two (the same paper)."""
    CENTERED_CLIP = "centered_clip"
    """From the median towards the mean of what lies within ``radius`` of it (Karimireddy et al. 2021, 2012.10333)."""


_OPTIONS: dict[str, Rule] = {
    "norm": Rule.CLIP,
    "trim": Rule.TRIMMED_MEAN,
    "radius": Rule.CENTERED_CLIP,
    "iterations": Rule.CENTERED_CLIP,
}
"""Which rule an option belongs to."""


@dataclass(frozen=True, slots=True)
class Aggregation:
    """A robust rule with its options; None is a rule's default, and all there is for an option of another rule.

    rule: one of ``Rule``.  trim: how many values ``trimmed_mean`` leaves out at each end of every element, as many as
    there may be poisoners (default 1).  Among m contributors there are at most ``(m - 1) // 2``, see
    :meth:`trimmed`.  norm: the L2 norm of the whole tensors above which ``clip`` scales a contribution down; default:
    the median of the norms.  radius: the L2 distance from the centre that ``centered_clip`` lets a contribution
    have; default: the median of the distances.  iterations: of ``centered_clip`` (default 3).  votes: so many of the
    tensors, the last ones, are settings and no gradients: whatever the rule, their median is taken, and they do not
    count for lengths.

    ``ValueError``, in one line, for anything else.
    """

    rule: str
    trim: int | None = None
    norm: float | None = None
    radius: float | None = None
    iterations: int | None = None
    votes: int = 0

    def __post_init__(self) -> None:
        known = tuple(rule.value for rule in Rule)
        if self.rule not in known:
            raise ValueError(f"aggregation is {', '.join(known)}, or mean without options, not {self.rule!r}")
        for option, rule in _OPTIONS.items():
            if getattr(self, option) is not None and rule.value != self.rule:
                raise ValueError(f"{option} is an option of {rule.value}, not of {self.rule}: leave it out")
        _check_whole("trim", self.trim, MAX_TRIM)
        _check_whole("iterations", self.iterations, MAX_ITERATIONS)
        _check_whole("votes", self.votes, MAX_VOTES, least=0)
        _check_length("norm", self.norm)
        _check_length("radius", self.radius)

    @classmethod
    def of(cls, choice: Aggregation | str | None) -> Aggregation | None:
        """What a caller wrote: None and "mean" are the mean, a name is a rule with its defaults."""
        if choice is None or choice == "mean":
            return None
        return choice if isinstance(choice, Aggregation) else cls(choice)

    @property
    def passes(self) -> int:
        """How often ``centered_clip`` looks at all contributions."""
        return 3 if self.iterations is None else self.iterations

    @property
    def wanted(self) -> int:
        """How many values are to be left out at each end, where that is the way in which a rule protects."""
        if self.rule == Rule.MEDIAN:
            return 1
        if self.rule != Rule.TRIMMED_MEAN:
            return 0
        return 1 if self.trim is None else self.trim

    def trimmed(self, contributors: int) -> int:
        """How many values are left out at each end if so many members contribute.

        As many as asked for, but at least one value (of an even number: two) is left: with fewer contributors than
        ``2 * trim + 1`` the trimmed mean becomes the median, and withstands only ``(contributors - 1) // 2``.
        """
        most = max(0, (contributors - 1) // 2)
        return most if self.rule == Rule.MEDIAN else min(self.wanted, most)

    @property
    def schema(self) -> str:
        """What members compare: equal only if they aggregate alike."""
        numbers = (self.trim, self.norm, self.radius, self.iterations, self.votes)
        return " ".join([self.rule, *("-" if number is None else repr(number) for number in numbers)])


def _check_whole(name: str, value: int | None, most: int, *, least: int = 1) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name} is a whole number from {least} to {most}, not {value!r}")


def _check_length(name: str, value: float | None) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is a number, not {value!r}")
    if not math.isfinite(value) or not 0.0 < value <= LARGEST:
        raise ValueError(f"{name} is above 0 and at most {LARGEST:g}, not {value!r}")
