"""What peers bring to a round, and what must come out: both sides compute it from the same few numbers.

All values are small whole numbers, so that sums are exact in float32 whatever their order, and a mean is one rounding
away: the expected result is known to the last bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def tensors(seed: int, sizes: Sequence[int]) -> list[Tensor]:
    """float32 tensors of ``sizes`` elements with whole values from -999 to 999."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(-999, 1000, (size,), generator=generator).to(torch.float32) for size in sizes]


def digest(values: Iterable[Tensor]) -> str:
    """SHA-256 of the bytes of ``values``, one after the other."""
    found = hashlib.sha256()
    for value in values:
        found.update(value.numpy().tobytes())
    return found.hexdigest()


def median_digest(seeds: Sequence[int], sizes: Sequence[int]) -> str:
    """The digest of the element-wise median of the tensors made from ``seeds``, in float32 as exact as they are."""
    found = []
    for values in zip(*(tensors(seed, sizes) for seed in seeds), strict=True):
        ordered = torch.stack(values).sort(0).values
        count = len(ordered)
        found.append((ordered[(count - 1) // 2] + ordered[count // 2]) / 2)
    return digest(found)


def mean_digest(seeds: Sequence[int], sizes: Sequence[int], weights: Sequence[int]) -> str:
    """The digest of the weighted mean of the tensors made from ``seeds``."""
    sums = [torch.zeros(size) for size in sizes]
    for seed, weight in zip(seeds, weights, strict=True):
        for total, value in zip(sums, tensors(seed, sizes), strict=True):
            total += weight * value
    return digest(total / sum(weights) for total in sums)
