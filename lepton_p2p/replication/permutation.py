"""Seeded permutations that are the same on every machine, in every version of every library."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def permutation(size: int, seed: int, pass_number: int) -> npt.NDArray[np.int64]:
    """The order in which pass ``pass_number`` visits samples 0 .. size - 1.

    Samples are sorted by a SplitMix64 hash (Steele, Lea, Flood, OOPSLA 2014) of (seed, pass, sample).  NumPy's own
    generators may change their streams between versions, and peers with different versions must agree.
    """
    base = _mix_int(_mix_int(seed & _MASK) ^ (pass_number & _MASK))
    with np.errstate(over="ignore"):
        keys = _mix(np.arange(1, size + 1, dtype=np.uint64) * np.uint64(_GOLDEN) + np.uint64(base))
    return np.argsort(keys, kind="stable").astype(np.int64, copy=False)


def _mix(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: npt.NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return mixed


def _mix_int(value: int) -> int:
    z = (value + _GOLDEN) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)
