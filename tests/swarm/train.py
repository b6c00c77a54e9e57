"""What the containers of most tests train: handwritten digits, at a pace, until their test has seen what it wanted.

A step takes as long as one of a larger model, with the processor free meanwhile: the training is long enough for
faults on a slow machine too, and its end is near when nothing is left but to wait for it (``ComposedSwarm.hurry``).
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch
from sklearn.datasets import load_digits

import lepton_p2p as lp

HURRY = Path(os.environ["HURRY"])
STEP = 0.04
"""Seconds.  Two peers need more than two minutes for all passes, which is longer than a test waits for anything."""


class Paced(torch.nn.Sequential):
    """Takes its time as long as there is no file ``HURRY``; what it computes is the same."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and not HURRY.exists():
            time.sleep(STEP)
        return super().forward(x)


def build() -> lp.Built:
    digits = load_digits()
    x, y = torch.from_numpy(digits.data).float() / 16, torch.from_numpy(digits.target)
    order = torch.randperm(len(x))
    train, test = order[360:], order[:360]
    return lp.Built(
        model=Paced(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10)),
        train=(x[train], y[train]),
        test=(x[test], y[test]),
        loss_fn=torch.nn.functional.cross_entropy,
        make_optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
        settings={"name": "containers", "seed": 7, "batch_size": 16, "evaluate_every": 50, "schedule": {"passes": 80}},
    )
