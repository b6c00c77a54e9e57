"""The models that a job may name.

None of them has layers whose buffers depend on the batch (batch normalisation): small batches spread over peers make
its statistics poor.  (Models of Python files may have them; the strategies keep buffers equal too.)
"""

from __future__ import annotations

import itertools
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from lepton_p2p.models.registry import Registry

Width = Annotated[int, Field(ge=1, le=65_536)]
Widths = Annotated[list[Width], Field(min_length=2, max_length=64)]
Activation = Literal["relu", "gelu", "tanh"]

MODELS: Registry[nn.Module] = Registry("model")

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}


@MODELS.add("mlp")
def mlp(*, sizes: Widths, activation: Activation = "relu") -> nn.Module:
    """Multi-layer perceptron: ``sizes`` from input to output, (batch, ...) float32 -> (batch, sizes[-1])."""
    layers: list[nn.Module] = [nn.Flatten()]
    for index, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        layers += [_ACTIVATIONS[activation]()] if index else []
        layers.append(nn.Linear(inputs, outputs))
    return nn.Sequential(*layers)


@MODELS.add("linear")
def linear(*, inputs: Width, outputs: Width = 1, bias: bool = True) -> nn.Module:
    """Linear regression: (batch, inputs) float32 -> (batch, outputs)."""
    return nn.Linear(inputs, outputs, bias=bias)


@MODELS.add("logistic")
def logistic(*, inputs: Width, classes: Annotated[int, Field(ge=2, le=65_536)] = 2) -> nn.Module:
    """Multinomial logistic regression: (batch, ...) float32 -> (batch, classes) logits, for ``cross_entropy``."""
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, classes))


@MODELS.add("small_cnn")
def small_cnn(
    *,
    side: Annotated[int, Field(ge=4, le=512)] = 8,
    channels: Annotated[int, Field(ge=1, le=16)] = 1,
    classes: Annotated[int, Field(ge=2, le=65_536)] = 10,
    width: Annotated[int, Field(ge=4, le=512, multiple_of=4)] = 16,
) -> nn.Module:
    """Two convolutions with group normalisation: (batch, channels * side * side) float32 -> (batch, classes)."""
    pooled = side // 4
    return nn.Sequential(
        nn.Flatten(),
        nn.Unflatten(1, (channels, side, side)),
        nn.Conv2d(channels, width, 3, padding=1),
        nn.GroupNorm(4, width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.GroupNorm(4, 2 * width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(2 * width * pooled * pooled, classes),
    )
