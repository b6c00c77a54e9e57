"""How good a model is on data that it was not trained on."""

from __future__ import annotations

import torch
from torch import nn

from lepton_p2p.models import Built

BATCH = 1024


def evaluate(model: nn.Module, built: Built) -> dict[str, float]:
    """``{"accuracy": 0 to 1, "loss": ...}`` for classes, ``{"mse": ..., "loss": ...}`` else; {} without test data.

    Changes nothing in the model; restores its training mode.
    """
    x, y = built.test
    if not len(x):
        return {}
    was_training = model.training
    model.eval()
    hits = squares = loss = 0.0
    with torch.no_grad():
        for inputs, targets in zip(torch.split(x, BATCH), torch.split(y, BATCH), strict=True):
            predicted = model(inputs)
            loss += float(built.loss_fn(predicted, targets)) * len(inputs)
            if built.classifies:
                hits += float((_classes(predicted, targets) == targets).sum())
            else:
                squares += float((predicted.reshape(targets.shape) - targets).pow(2).mean()) * len(inputs)
    model.train(was_training)
    metric = {"accuracy": hits / y.numel()} if built.classifies else {"mse": squares / len(x)}
    return {**metric, "loss": loss / len(x)}


def _classes(predicted: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Class numbers of logits: one per class, or one alone for two classes."""
    if predicted.numel() == targets.numel():
        return (predicted.reshape(targets.shape) > 0).to(targets.dtype)
    return predicted.argmax(dim=1)
