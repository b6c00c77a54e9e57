"""Slow imports at a moment when nobody waits for an answer."""

from __future__ import annotations

import importlib
import importlib.util

import torch


def warm_up() -> None:
    """Import now what the first training step would import.

    torch loads its compiler (800 modules) with the first optimizer, and the digits come with scikit-learn: seconds of
    Python code on a busy machine, in which the loop would answer late and others would take this peer for dead.
    """
    warm_up_torch()
    if importlib.util.find_spec("sklearn") is not None:
        importlib.import_module("sklearn.datasets")


def warm_up_torch() -> None:
    """Only what the first optimizer imports."""
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
