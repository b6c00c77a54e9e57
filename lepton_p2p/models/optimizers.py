"""The optimizers that a job may name: those of ``torch.optim`` whose step is a function of gradient and state only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from lepton_p2p.models.registry import Registry

Params = Iterable[nn.Parameter]
LARGEST = 1e30
"""Of any number: torch raises errors for what float32 cannot hold."""
Positive = Annotated[float, Field(gt=0, le=LARGEST)]
NotNegative = Annotated[float, Field(ge=0, le=LARGEST)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Betas = Annotated[list[Fraction], Field(min_length=2, max_length=2)]

OPTIMIZERS: Registry[torch.optim.Optimizer] = Registry("optimizer")


@OPTIMIZERS.add("sgd")
def sgd(
    params: Params,
    *,
    lr: Positive,
    momentum: Fraction = 0.0,
    dampening: Fraction = 0.0,
    weight_decay: NotNegative = 0.0,
    nesterov: bool = False,
) -> torch.optim.Optimizer:
    """Stochastic gradient descent with momentum (torch.optim.SGD)."""
    return torch.optim.SGD(
        params, lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay, nesterov=nesterov
    )


@OPTIMIZERS.add("adam")
def adam(
    params: Params,
    *,
    lr: Positive = 1e-3,
    betas: Betas = [0.9, 0.999],  # noqa: B006  # read only: a default of the schema
    eps: Positive = 1e-8,
    weight_decay: NotNegative = 0.0,
    amsgrad: bool = False,
) -> torch.optim.Optimizer:
    """Adam (arXiv 1412.6980)."""
    return torch.optim.Adam(
        params, lr=lr, betas=(betas[0], betas[1]), eps=eps, weight_decay=weight_decay, amsgrad=amsgrad
    )


@OPTIMIZERS.add("adamw")
def adamw(
    params: Params,
    *,
    lr: Positive = 1e-3,
    betas: Betas = [0.9, 0.999],  # noqa: B006
    eps: Positive = 1e-8,
    weight_decay: NotNegative = 0.01,
    amsgrad: bool = False,
) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay (arXiv 1711.05101)."""
    return torch.optim.AdamW(
        params, lr=lr, betas=(betas[0], betas[1]), eps=eps, weight_decay=weight_decay, amsgrad=amsgrad
    )


@OPTIMIZERS.add("nadam")
def nadam(
    params: Params,
    *,
    lr: Positive = 2e-3,
    betas: Betas = [0.9, 0.999],  # noqa: B006
    eps: Positive = 1e-8,
    weight_decay: NotNegative = 0.0,
) -> torch.optim.Optimizer:
    """Adam with Nesterov momentum (torch.optim.NAdam)."""
    return torch.optim.NAdam(params, lr=lr, betas=(betas[0], betas[1]), eps=eps, weight_decay=weight_decay)


@OPTIMIZERS.add("rmsprop")
def rmsprop(
    params: Params,
    *,
    lr: Positive = 1e-2,
    alpha: Fraction = 0.99,
    eps: Positive = 1e-8,
    momentum: Fraction = 0.0,
    weight_decay: NotNegative = 0.0,
) -> torch.optim.Optimizer:
    """RMSprop (torch.optim.RMSprop)."""
    return torch.optim.RMSprop(params, lr=lr, alpha=alpha, eps=eps, momentum=momentum, weight_decay=weight_decay)


@OPTIMIZERS.add("adagrad")
def adagrad(
    params: Params, *, lr: Positive = 1e-2, eps: Positive = 1e-10, weight_decay: NotNegative = 0.0
) -> torch.optim.Optimizer:
    """Adagrad (torch.optim.Adagrad); its accumulators exist from the start."""
    return torch.optim.Adagrad(params, lr=lr, eps=eps, weight_decay=weight_decay)
