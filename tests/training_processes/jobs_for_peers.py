"""Jobs whose training can be checked from outside, as Python files."""

from __future__ import annotations

from pathlib import Path

SAMPLES = 240
BATCH = 4
SEED = 3

TALLY = f"""
import os
import time

import torch

import lepton_p2p as lp

class Tally(torch.nn.Linear):
    def forward(self, x):
        time.sleep(float(os.environ.get("PACE", "0.004")))
        return super().forward(x)

def build():
    # Sample i is the i-th unit vector and its gradient is 1 in place i: weight i falls by (1 / samples in the round)
    # whenever sample i is used, so the weights are a tally of the samples.
    model = Tally({SAMPLES}, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    x = torch.eye({SAMPLES})
    return lp.Built(
        model=model,
        train=(x, torch.zeros({SAMPLES}, 1)),
        test=(x[:1], torch.zeros(1, 1)),
        loss_fn=lambda predicted, target: predicted.mean(),
        make_optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1.0),
        settings={{"batch_size": {BATCH}, "schedule": {{"SCHEDULE"}}, "evaluate_every": 0, "seed": {SEED}}},
    )
"""


def tally_job(folder: Path, *, steps: int | None = None, passes: int | None = None) -> Path:
    """A file ``train.py``; ``PACE`` in the environment: seconds that every step takes at least (default 0.004)."""
    schedule = f'"steps": {steps}' if steps is not None else f'"passes": {passes}'
    file = folder / "train.py"
    file.write_text(TALLY.replace('"SCHEDULE"', schedule))
    return file


WIDE = """
name = "wide"
seed = 5
batch_size = 8
evaluate_every = 0

[model]
name = "mlp"
sizes = [16, 1400, 1400, 4]

[data]
name = "synthetic_classification"
samples = 512
test_samples = 16

[optimizer]
name = "sgd"
lr = 0.01
momentum = 0.9

[schedule]
steps = 1000000
"""


def wide_job(folder: Path) -> Path:
    """A TOML job that does not end, with 8 MB of parameters and as much of momentum: 16 chunks to fetch."""
    file = folder / "wide.toml"
    file.write_text(WIDE)
    return file


SMALL = """
name = "NAME"
seed = 5
batch_size = 8
evaluate_every = 20

[model]
name = "mlp"
sizes = [16, 12, 4]

[data]
name = "synthetic_classification"
samples = 512
test_samples = 128

[optimizer]
name = "adamw"
lr = 0.01

[schedule]
steps = STEPS
"""


def small_job(folder: Path, *, steps: int, name: str = "small") -> Path:
    """A TOML job that ends after ``steps`` steps."""
    file = folder / f"{name}.toml"
    file.write_text(SMALL.replace("STEPS", str(steps)).replace("NAME", name))
    return file


DIGITS = """
import os
import time

import torch
from sklearn.datasets import load_digits

import lepton_p2p as lp

class Paced(torch.nn.Sequential):
    def forward(self, x):
        if self.training:
            time.sleep(float(os.environ["PACE"]))
        return super().forward(x)

def build():
    digits = load_digits()
    x, y = torch.from_numpy(digits.data).float() / 16, torch.from_numpy(digits.target)
    order = torch.randperm(len(x))
    train, test = order[360:], order[:360]
    return lp.Built(
        model=Paced(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)),
        train=(x[train], y[train]),
        test=(x[test], y[test]),
        loss_fn=torch.nn.functional.cross_entropy,
        make_optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
        settings={
            "seed": 7,
            "batch_size": 16,
            "evaluate_every": 0,
            "strategy": {"name": "gossip", "push_every": 2},
            "schedule": {"passes": PASSES, "lr": "cosine", "lr_floor": 0.01},
        },
    )
"""


def gossiping_digits(folder: Path, *, passes: int) -> Path:
    """A file that trains handwritten digits by gossip; ``PACE`` in the environment: seconds that every step takes."""
    file = folder / "digits.py"
    file.write_text(DIGITS.replace("PASSES", str(passes)))
    return file
