"""What a collective does with the numbers of two peers: element-wise kernels on chunks.

Chunks are reduced on the event loop while they are in cache (1 MiB takes about 0.03 ms).  NumPy rather than torch,
because its kernels stay on the calling thread: waking torch's thread pool for a chunk costs more than the chunk.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Op(StrEnum):
    """A collective operation.  SUM to MIN reduce, COPY (broadcast) and GATHER only move bytes."""

    SUM = "sum"
    MEAN = "mean"
    MAX = "max"
    MIN = "min"
    COPY = "copy"
    GATHER = "gather"

    @property
    def reduces(self) -> bool:
        return self not in (Op.COPY, Op.GATHER)


def combine(op: Op, arrived: Array, own: Array, out: Array) -> None:
    """``out`` becomes the reduction of ``arrived`` and ``own`` (same shape and dtype); NaN wins in max and min.

    Integers wrap around.  Raises ``ValueError`` for an operation that does not reduce.
    """
    if op is Op.SUM or op is Op.MEAN:
        with np.errstate(over="ignore", invalid="ignore"):  # the next peer checks what it receives
            np.add(arrived, own, out=out)
    elif op is Op.MAX:
        np.maximum(arrived, own, out=out)
    elif op is Op.MIN:
        np.minimum(arrived, own, out=out)
    else:
        raise ValueError(f"{op} does not reduce")


def sound(op: Op, values: Array) -> bool:
    """Whether ``values`` can be the partial result of peers whose inputs were all sound.

    Floats must be finite for sum and mean and not NaN for max and min (infinities are their identities).  The extremes
    tell: a NaN makes both NaN, an infinity is one of them.  No temporary, one pass each over data in cache.
    """
    if values.dtype.kind != "f" or not values.size:
        return True
    if op is Op.MAX or op is Op.MIN:
        return not math.isnan(np.maximum.reduce(values))
    return math.isfinite(np.maximum.reduce(values)) and math.isfinite(np.minimum.reduce(values))
