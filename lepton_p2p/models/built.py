"""Everything that a peer needs to train: what a job, or the ``build()`` of a Python file, is turned into."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

LossFn = Callable[[Tensor, Tensor], Tensor]
"""``(prediction, target) -> scalar``: the mean over the samples."""
MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Built:
    """What is trained, on what, how.

    model: parameters in their seeded initial state.  train, test: ``(x, y)``, tensors with the samples in their first
    dimension, ``len(x) == len(y)``; test may be empty.  loss_fn: mean over the samples of a batch.  make_optimizer:
    called once with the model's parameters.  settings: for ``build()`` of a Python file only: the keys of the job
    file that it wants to set (``batch_size``, ``schedule``, ``strategy``, ``seed``, ...).
    """

    model: nn.Module
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    loss_fn: LossFn
    make_optimizer: MakeOptimizer
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, (x, y) in (("train", self.train), ("test", self.test)):
            if len(x) != len(y):
                raise ValueError(f"{name} has {len(x)} inputs and {len(y)} targets: there must be one target per input")
        if not len(self.train[0]):
            raise ValueError("train is empty: there is nothing to train on")

    @property
    def classifies(self) -> bool:
        """Whether targets are class numbers, so that accuracy (and not the mean squared error) is the metric."""
        return not self.train[1].is_floating_point()
