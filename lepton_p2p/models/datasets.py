"""The data sets that a job may name: functions of a seed that give train and test tensors, the same on every peer.

Every peer builds the whole set for itself: samples never travel, only which of them have been used.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from lepton_p2p.errors import JobError
from lepton_p2p.models.npz import load_npz
from lepton_p2p.models.registry import Registry

Pair = tuple[Tensor, Tensor]
Split = tuple[Pair, Pair]
"""``((train x, train y), (test x, test y))``."""
Count = Annotated[int, Field(ge=1, le=10_000_000)]
Dimension = Annotated[int, Field(ge=1, le=65_536)]
MAX_ELEMENTS = 500_000_000
"""Elements of a synthetic input: 2 GB in float32."""

DATASETS: Registry[Split] = Registry("data set")


@DATASETS.add("digits")
def digits(seed: int, *, test_every: Annotated[int, Field(ge=2, le=100)] = 5) -> Split:
    """Handwritten digits (1797 images, 8x8): x (n, 64) float32 in [0, 1], y (n,) int64; every fifth is a test image.

    The split does not depend on the seed, so that accuracies compare between runs.  Needs scikit-learn.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise JobError(
            "data set 'digits' needs scikit-learn, which is not installed: pip install 'lepton_p2p[demo]'"
        ) from None
    loaded = load_digits()
    x = torch.from_numpy(np.ascontiguousarray(loaded.data, dtype=np.float32)) / 16.0
    y = torch.from_numpy(np.ascontiguousarray(loaded.target, dtype=np.int64))
    # The file is ordered by writer: taking every k-th keeps all writers and all classes in both parts.
    is_test = torch.arange(len(x)) % test_every == 0
    return (x[~is_test], y[~is_test]), (x[is_test], y[is_test])


@DATASETS.add("synthetic_linear")
def synthetic_linear(
    seed: int,
    *,
    samples: Count = 1024,
    inputs: Dimension = 8,
    outputs: Dimension = 1,
    noise: Annotated[float, Field(ge=0)] = 0.01,
    test_samples: Count = 256,
) -> Split:
    """``y = x @ a + noise``: x (n, inputs), y (n, outputs), float32; for ``linear`` with ``mse``."""
    total = _checked(samples + test_samples, inputs + outputs)
    _checked(inputs, outputs)
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(inputs, outputs, generator=generator)
    x = torch.randn(total, inputs, generator=generator)
    y = x @ weights + noise * torch.randn(total, outputs, generator=generator)
    return (x[:samples], y[:samples]), (x[samples:], y[samples:])


@DATASETS.add("synthetic_classification")
def synthetic_classification(
    seed: int,
    *,
    samples: Count = 1024,
    inputs: Dimension = 16,
    classes: Annotated[int, Field(ge=2, le=65_536)] = 4,
    spread: Annotated[float, Field(gt=0)] = 0.5,
    test_samples: Count = 256,
) -> Split:
    """One Gaussian cloud per class around a random unit-variance centre: x (n, inputs) float32, y (n,) int64."""
    total = _checked(samples + test_samples, inputs)
    _checked(classes, inputs)
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, inputs, generator=generator)
    y = torch.randint(classes, (total,), generator=generator)
    x = centres[y] + spread * torch.randn(total, inputs, generator=generator)
    return (x[:samples], y[:samples]), (x[samples:], y[samples:])


@DATASETS.add("npz")
def npz(
    seed: int,
    *,
    uri: Annotated[str, Field(max_length=2048)],
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")],
) -> Split:
    """NumPy archive at ``uri`` (https:// or file://) with x_train, y_train, x_test, y_test and the given SHA-256."""
    return load_npz(uri, sha256)


def _checked(rows: int, columns: int) -> int:
    if rows * columns > MAX_ELEMENTS:
        raise JobError(f"a synthetic data set of {rows} x {columns} elements is too large: at most {MAX_ELEMENTS}")
    return rows
