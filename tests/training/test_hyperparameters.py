"""One learning rate for all: the leader's numbers arrive exactly, whatever the weights of the mean."""

from __future__ import annotations

import math
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_p2p.training.hyperparameters import Hyperparameters


def adam(lr: float = 0.001, **more: object) -> torch.optim.Optimizer:
    groups = [{"params": [torch.nn.Parameter(torch.ones(2))]}, {"params": [torch.nn.Parameter(torch.ones(1))], **more}]
    return torch.optim.Adam(groups, lr=lr)


def mean(parts: list[torch.Tensor], weights: list[float]) -> torch.Tensor:
    total = sum(weights)
    summed = torch.zeros_like(parts[0])
    for part, weight in zip(parts, weights, strict=True):
        summed += part * weight
    return summed / total


def bits(value: float) -> bytes:
    return struct.pack("!d", value)


@settings(deadline=None)  # the first optimizer of a process takes seconds
@given(
    st.floats(allow_nan=False),
    st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=5).flatmap(
        lambda weights: st.tuples(st.just(weights), st.integers(0, len(weights) - 1))
    ),
)
def test_every_number_of_the_leader_arrives_bit_by_bit(lr: float, case: tuple[list[float], int]) -> None:
    weights, leader = case
    optimizers = [adam(lr=0.5) for _ in weights]
    all_hyper = [Hyperparameters(optimizer) for optimizer in optimizers]
    optimizers[leader].param_groups[1]["lr"] = lr
    optimizers[leader].param_groups[0]["betas"] = (0.8, 0.95)
    parts = [torch.empty(hyper.size, dtype=torch.float64) for hyper in all_hyper]
    for index, (hyper, part) in enumerate(zip(all_hyper, parts, strict=True)):
        hyper.propose(part, leading=index == leader)
    averaged = mean(parts, weights)
    for hyper, optimizer in zip(all_hyper, optimizers, strict=True):
        hyper.settle(averaged)
        assert bits(optimizer.param_groups[1]["lr"]) == bits(lr)
        assert optimizer.param_groups[0]["lr"] == 0.5
        assert optimizer.param_groups[0]["betas"] == (0.8, 0.95)
        assert optimizer.param_groups[0]["amsgrad"] is False, "what is no number is left alone"


def test_without_its_leader_a_step_uses_what_was_agreed_last() -> None:
    optimizer = adam(lr=0.5)
    hyper = Hyperparameters(optimizer)
    optimizer.param_groups[0]["lr"] = 0.1
    part = torch.empty(hyper.size, dtype=torch.float64)
    hyper.propose(part, leading=False)
    assert not part.any()
    hyper.settle(part)
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_during_a_round_the_groups_hold_what_is_agreed_and_afterwards_what_the_program_set() -> None:
    optimizer = adam(lr=0.5)
    hyper = Hyperparameters(optimizer)
    optimizer.param_groups[0]["lr"] = 0.1
    hyper.propose(torch.empty(hyper.size, dtype=torch.float64), leading=True)
    assert optimizer.param_groups[0]["lr"] == 0.5
    hyper.take_back()
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_whole_numbers_stay_whole() -> None:
    optimizer = adam(weight_decay=2)
    hyper = Hyperparameters(optimizer)
    part = torch.empty(hyper.size, dtype=torch.float64)
    optimizer.param_groups[1]["weight_decay"] = 3
    hyper.propose(part, leading=True)
    hyper.settle(part)
    assert optimizer.param_groups[1]["weight_decay"] == 3
    assert isinstance(optimizer.param_groups[1]["weight_decay"], int)


def test_a_scheduler_that_comes_after_the_first_step_is_refused() -> None:
    optimizer = adam()
    hyper = Hyperparameters(optimizer)
    torch.optim.lr_scheduler.StepLR(optimizer, 2)
    with pytest.raises(RuntimeError, match="schedulers before"):
        hyper.propose(torch.empty(hyper.size, dtype=torch.float64), leading=True)


def test_a_learning_rate_that_is_not_a_number_arrives_as_that() -> None:
    optimizer = adam()
    hyper = Hyperparameters(optimizer)
    optimizer.param_groups[0]["lr"] = math.nan
    part = torch.empty(hyper.size, dtype=torch.float64)
    hyper.propose(part, leading=True)
    assert bool(torch.isfinite(part).all()), "the round must not be refused for it"
    hyper.settle(part)
    assert math.isnan(optimizer.param_groups[0]["lr"])
