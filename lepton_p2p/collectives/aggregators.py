"""The maths of robust aggregation: what an owner makes of everybody's contributions to its segment.

All rules count every contribution once, whatever weight its sender claims (above 0): a claimed weight is as easy to
forge as a gradient.  They depend on nothing but the values, and not on the order of the members beyond rounding.

*Coordinate-wise* trimmed mean and median are those of Yin et al., "Byzantine-robust distributed learning: towards
optimal statistical rates" (2018, arXiv 1803.01498).  ``clip`` and ``centered_clip`` (Karimireddy et al., "Learning from
history for Byzantine robust optimization", 2021, arXiv 2012.10333) need norms; an owner sees only its segment, so that
they are taken *per segment*, as in Gorbunov et al. (2022, arXiv 2106.11257).  A ``norm`` or ``radius`` that was given
for the whole tensors counts for q of all elements as ``sqrt(q)`` of it: then it holds for the whole, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lepton_p2p.rounds.aggregation import Aggregation, Rule

_BLOCK = 1 << 15
"""Elements of each contribution that are looked at together: what is made of them stays in the processor's cache."""

Parts = Sequence[Tensor]
"""Contributions to one segment: for each dtype in it a tensor [members, elements]; one row is one member's."""


def aggregate(parts: Parts, aggregation: Aggregation, *, share: float = 1.0) -> list[Tensor]:
    """For each part [members, elements] the tensor [elements] that stands for its rows, of the same dtype.

    All values finite, at least one member.  ``share``: the elements of these parts per element of the whole tensors.
    """
    match Rule(aggregation.rule):
        case Rule.TRIMMED_MEAN | Rule.MEDIAN:
            return [_trimmed(part, aggregation.trimmed(len(part))) for part in parts]
        case Rule.CLIP:
            return _clipped(parts, aggregation.norm, share)
        case Rule.CENTERED_CLIP:
            return _centered(parts, aggregation.radius, aggregation.passes, share)


def is_finite(values: Tensor) -> bool:
    """Whether no element of a float tensor is NaN or infinite."""
    if not values.numel():
        return True
    low, high = torch.aminmax(values)  # a NaN makes both NaN
    return math.isfinite(low) and math.isfinite(high)


def _blocks(elements: int) -> Iterator[slice]:
    return (slice(start, start + _BLOCK) for start in range(0, elements, _BLOCK))


def _trimmed(part: Tensor, trim: int) -> Tensor:
    """Element by element the mean without the ``trim`` smallest and largest."""
    out = part.new_empty(part.shape[1])
    last = len(part) - trim
    for block in _blocks(part.shape[1]):
        kept = _sorted(part[:, block])[trim:last]
        # Within the kept values, whatever rounding does; they may be too large for their sum, too.
        out[block] = torch.clamp(kept.mean(0, dtype=torch.float64).to(part.dtype), kept[0], kept[-1])
    return out


def _sorted(rows: Tensor) -> Tensor:
    """``rows`` [members, elements] with every column in ascending order.

    Odd-even transposition (Habermann 1972): comparisons of whole rows, which for a few dozen members are faster than
    as many sorts as there are elements.
    """
    count = len(rows)
    if count > 32:
        return torch.sort(rows, dim=0).values
    lines = list(rows.unbind(0))
    for turn in range(count):
        for low in range(turn % 2, count - 1, 2):
            first, second = lines[low], lines[low + 1]
            lines[low], lines[low + 1] = torch.minimum(first, second), torch.maximum(first, second)
    return torch.stack(lines)


def _clipped(parts: Parts, norm: float | None, share: float) -> list[Tensor]:
    """The mean of the rows, none of which counts with a longer norm than ``norm`` (None: the median of the norms)."""
    centre = [part.new_zeros(part.shape[1], dtype=torch.float64) for part in parts]
    norms = _distances(parts, centre)
    factors = _factors(norms, _bound(norm, norms, share))
    return [step.to(part.dtype) for part, step in zip(parts, _mean_step(parts, centre, factors), strict=True)]


def _centered(parts: Parts, radius: float | None, passes: int, share: float) -> list[Tensor]:
    """From the median, ``passes`` steps by the mean of all differences from it, none longer than ``radius``."""
    centre = [_trimmed(part, (len(part) - 1) // 2).double() for part in parts]
    bound = 0.0
    for number in range(passes):
        distances = _distances(parts, centre)
        if not number:
            bound = _bound(radius, distances, share)
        steps = _mean_step(parts, centre, _factors(distances, bound))
        centre = [point + step for point, step in zip(centre, steps, strict=True)]
    return [point.to(part.dtype) for part, point in zip(parts, centre, strict=True)]


def _bound(given: float | None, lengths: Tensor, share: float) -> float:
    """What was given for the whole, or the (lower) median: more than half of all are no longer if they are honest."""
    return float(lengths.median()) if given is None else given * math.sqrt(share)


def _distances(parts: Parts, centre: Sequence[Tensor]) -> Tensor:
    """[members], float64: how far each row of all parts together is from ``centre``."""
    squares = torch.zeros(len(parts[0]), dtype=torch.float64)
    for part, point in zip(parts, centre, strict=True):
        for block in _blocks(part.shape[1]):
            squares += (part[:, block].double() - point[block]).square().sum(1)
    return squares.sqrt()


def _factors(lengths: Tensor, bound: float) -> Tensor:
    """[members]: what each difference is multiplied by, so that none is longer than ``bound``.

    A length beyond what a float64 holds counts as nothing.
    """
    factors = torch.where(lengths > bound, bound / lengths, torch.ones_like(lengths))
    return torch.where(lengths.isfinite(), factors, torch.zeros_like(lengths))


def _mean_step(parts: Parts, centre: Sequence[Tensor], factors: Tensor) -> list[Tensor]:
    """For each part [elements], float64: the mean over the members of factor times difference from ``centre``."""
    steps = []
    # What counts for nothing may be too far away for its difference to be a number.
    near = factors > 0
    shares = factors[near] / len(factors)
    for part, point in zip(parts, centre, strict=True):
        step = torch.empty_like(point)
        for block in _blocks(part.shape[1]):
            step[block] = shares @ (part[:, block][near].double() - point[block])
        steps.append(step)
    return steps
