"""When training ends, and the learning rate on the way: pure functions of replicated numbers."""

from __future__ import annotations

import math

from lepton_p2p.jobs import Schedule


def fraction(schedule: Schedule, *, step: int, passes: float) -> float:
    """How much of the training is done, 0 to 1, after ``step`` steps and (fractional) ``passes``."""
    by_step = step / schedule.steps if schedule.steps else 0.0
    by_pass = passes / schedule.passes if schedule.passes else 0.0
    return min(1.0, max(by_step, by_pass))


def complete(schedule: Schedule, *, step: int, passes: int) -> bool:
    """Whether the training is over after ``step`` steps and ``passes`` whole passes."""
    enough_steps = schedule.steps is not None and step >= schedule.steps
    return enough_steps or (schedule.passes is not None and passes >= schedule.passes)


def lr_factor(schedule: Schedule, *, step: int, done: float) -> float:
    """What the optimizer's learning rate is multiplied with in step number ``step`` (from 0), at fraction ``done``.

    Linear warm-up (arXiv 1706.02677), half a cosine down to ``lr_floor`` (arXiv 1608.03983).
    """
    warmup = min(1.0, (step + 1) / schedule.warmup_steps) if schedule.warmup_steps else 1.0
    if schedule.lr == "constant":
        return warmup
    cosine = 0.5 * (1.0 + math.cos(math.pi * done))
    return warmup * (schedule.lr_floor + (1.0 - schedule.lr_floor) * cosine)
