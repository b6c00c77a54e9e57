"""What a program's gradients become: weights, parameters without one, buffers, hooks; programs without a loader."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from all_reduce_steps import IDS, at
from fake_swarm import FakeSwarm
from plain_programs import Program, join_when, network, start
from torch import nn

from lepton_p2p.training import params_digest


def sgd(parameters: object) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1.0)  # type: ignore[arg-type]


class Constant(nn.Module):
    """Its gradient is what the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor([1.0]))
        self.b = nn.Parameter(torch.tensor([1.0]))


def constants(
    programs: Callable[[Program], object], count: int = 2, make: Callable[[object], torch.optim.Optimizer] = sgd
) -> list[Constant]:
    swarm = FakeSwarm()
    swarm.found(IDS[:count])
    all_of_them = [Program(swarm, me, programs, model=Constant(), make=make, loader=False) for me in IDS[:count]]
    for program in all_of_them:
        program.start()
    return [program.finish().model for program in all_of_them]  # type: ignore[misc]


def rank(program: Program) -> int:
    return IDS.index(program.me)


def test_without_a_loader_the_first_step_counts_already_and_all_weigh_the_same() -> None:
    def run(program: Program) -> None:
        program.model.a.grad = torch.tensor([1.0 + rank(program)])  # type: ignore[union-attr, assignment]
        assert program.optimizer.step() is None
        assert program.optimizer.steps == 1

    for model in constants(run):
        assert model.a.tolist() == [1.0 - 1.5]


def test_weights_say_how_many_samples_a_gradient_stands_for() -> None:
    def run(program: Program) -> None:
        program.model.a.grad = torch.tensor([1.0 + rank(program)])  # type: ignore[union-attr, assignment]
        program.optimizer.step(weight=1 + 2 * rank(program))

    for model in constants(run):
        assert model.a.tolist() == [1.0 - 1.75]


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_is_a_weight(weight: float) -> None:
    def run(program: Program) -> None:
        program.optimizer.step(weight=weight)

    with pytest.raises(ValueError, match="weight is finite"):
        constants(run, count=1)


def test_who_has_no_gradient_counts_as_zero_and_what_nobody_has_is_left_alone() -> None:
    def run(program: Program) -> None:
        if rank(program) == 0:
            program.model.a.grad = torch.tensor([1.0])  # type: ignore[union-attr, assignment]
        program.optimizer.step()
        assert program.model.a.grad.tolist() == [0.5]  # type: ignore[union-attr, operator]
        assert program.model.b.grad is None  # type: ignore[union-attr]

    for model in constants(run, make=lambda parameters: torch.optim.SGD(parameters, lr=1.0, weight_decay=0.5)):  # type: ignore[arg-type]
        assert model.a.tolist() == [1.0 - 1.0]
        assert model.b.tolist() == [1.0], "weight decay is for parameters with a gradient"


def test_a_gradient_that_is_not_finite_does_not_count_and_all_make_the_same_step() -> None:
    def run(program: Program) -> None:
        program.model.a.grad = torch.tensor([float("nan") if rank(program) else 1.0])  # type: ignore[union-attr, assignment]
        program.optimizer.step()
        result = program.optimizer.last_result
        assert result is not None
        assert result.refused == (IDS[1],)

    for model in constants(run):
        assert model.a.tolist() == [0.0]


def test_hooks_see_the_mean_and_a_closure_is_evaluated_once() -> None:
    def run(program: Program) -> None:
        seen: list[float] = []
        program.optimizer.register_step_pre_hook(lambda *_: seen.append(float(program.model.a.grad)))  # type: ignore[union-attr, arg-type]

        def closure() -> float:
            program.model.a.grad = torch.tensor([1.0 + rank(program)])  # type: ignore[union-attr, assignment]
            return 7.0

        assert program.optimizer.step(closure) == 7.0
        assert seen == [1.5]

    constants(run)


def test_a_joiner_without_a_loader_gets_the_state_in_its_first_step_which_does_not_count() -> None:
    swarm = FakeSwarm()

    def run(program: Program) -> None:
        while program.optimizer.steps < 12:
            for parameter in program.model.parameters():
                parameter.grad = torch.full_like(parameter, 0.1 * (1 + rank(program)))
            program.optimizer.step()

    def late(program: Program) -> None:
        for parameter in program.model.parameters():
            parameter.grad = torch.full_like(parameter, 1e9)
        program.optimizer.step()
        assert program.optimizer.steps >= 4
        run(program)

    joiner = Program(swarm, IDS[4], late, model=network(7), loader=False)
    join_when(swarm, joiner, 5)
    programs = [program.finish() for program in [*start(swarm, 2, run, loader=False), joiner]]
    assert len({params_digest(program.model) for program in programs}) == 1
    assert all(float(parameter.detach().abs().max()) < 100 for parameter in joiner.model.parameters())
    assert all(len(said) <= 1 for said in swarm.digests.values())


def test_a_peer_that_is_dropped_in_a_step_gets_the_state_and_goes_on() -> None:
    swarm = FakeSwarm()
    at(swarm, 4, swarm.drop, IDS[1])

    def run(program: Program) -> None:
        while program.optimizer.steps < 9:
            for parameter in program.model.parameters():
                parameter.grad = torch.full_like(parameter, 0.1 * (1 + rank(program)))
            program.optimizer.step()

    programs = [program.finish() for program in start(swarm, 3, run, loader=False)]
    assert len({params_digest(program.model) for program in programs}) == 1


class Masked(nn.Module):
    """Keeps statistics, an infinite mask, and a flag."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
        self.out = nn.Linear(6, 3)
        self.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
        self.register_buffer("flag", torch.tensor([True]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.out(self.norm(x))
        return result


def test_batch_statistics_are_averaged_and_infinite_masks_stay() -> None:
    swarm = FakeSwarm()
    swarm.found(IDS[:3])

    def run(program: Program) -> None:
        for _ in program.loader.passes(2):
            for x, y, _index in program.loader:
                if len(x) > 1:  # a batch of one has no statistics
                    program.one_step(x, y)
                else:
                    program.optimizer.step()

    programs = [Program(swarm, me, run, model=Masked()).start() for me in IDS[:3]]
    late = Program(swarm, IDS[5], run, model=Masked())
    join_when(swarm, late, 5)
    programs.append(late)
    models = [program.finish().model for program in programs]
    assert len({params_digest(model) for model in models}) == 1
    norm = models[0].norm
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None
    assert bool(norm.running_mean.abs().sum() > 0)
    assert torch.equal(models[0].mask, torch.tensor([0.0, float("-inf")]))  # type: ignore[arg-type]
    assert all(not result.refused for result in swarm.results)
