"""What a program may do wrong with a plain loop: it is told at once, in words that say what to do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from fake_swarm import FakeSwarm
from plain_programs import BATCH, SAMPLES, SEED, Program, start
from torch import nn

from lepton_p2p.errors import ConfigError
from lepton_p2p.training.plain import Share
from lepton_p2p.training.plain_replica import PlainReplica


def alone(run: Callable[[Program], object], **options: bool) -> Program:
    (program,) = start(FakeSwarm(), 1, run, **options)
    return program.finish()


def test_iterating_without_a_step() -> None:
    def run(program: Program) -> None:
        for _ in program.loader:
            pass

    with pytest.raises(RuntimeError, match=r"call optimizer.step\(\) once for every batch"):
        alone(run)


def test_a_step_without_a_batch() -> None:
    def run(program: Program) -> None:
        x, y, _ = next(iter(program.loader))
        program.one_step(x, y)
        program.optimizer.step()

    with pytest.raises(RuntimeError, match=r"optimizer.step\(\) without a batch"):
        alone(run)


def test_an_iteration_goes_on_where_the_last_one_stopped_and_its_batch_without_a_step_comes_again() -> None:
    stepped: list[int] = []

    def run(program: Program) -> None:
        for number, (x, y, index) in enumerate(program.loader):
            if number == 3:
                left = index.tolist()
                break
            program.one_step(x, y)
            stepped.extend(index.tolist())
        for number, (x, y, index) in enumerate(program.loader):
            assert number or index.tolist() == left
            program.one_step(x, y)
            stepped.extend(index.tolist())

    alone(run)
    assert sorted(stepped) == list(range(SAMPLES))


def test_an_iteration_that_was_left_over_does_not_disturb_the_next() -> None:
    def run(program: Program) -> None:
        old = iter(program.loader)
        next(old)  # as a traceback keeps it alive in a notebook
        x, y, _ = next(iter(program.loader))
        program.one_step(x, y)
        with pytest.raises(RuntimeError, match="another iteration"):
            next(old)

    alone(run)


def test_passes_without_iterating() -> None:
    def run(program: Program) -> None:
        for _ in program.loader.passes(2):
            pass

    with pytest.raises(RuntimeError, match="iterate over the loader"):
        alone(run)


def test_a_loader_that_comes_after_the_first_step() -> None:
    def run(program: Program) -> None:
        program.optimizer.step()
        program.training.attach(Share(SAMPLES, BATCH, SEED, True))

    with pytest.raises(RuntimeError, match="before the first step"):
        alone(run, loader=False)


def test_the_same_loader_made_again_is_the_same() -> None:
    def run(program: Program) -> None:
        x, y, _ = next(iter(program.loader))
        program.one_step(x, y)
        program.training.attach(Share(SAMPLES, BATCH, SEED, True))

    alone(run)


@pytest.mark.parametrize(
    ("total", "batch", "seed"), [(0, 4, 0), (10, 0, 0), (10, 4, -1), (10, 2.5, 0), (10, True, 0), (1 << 40, 1, 0)]
)
def test_numbers_of_a_loader_that_make_no_sense(total: int, batch: int, seed: int) -> None:
    with pytest.raises(ConfigError, match="batch_size"):
        Share(total, batch, seed, True)


def test_a_checkpoint_that_is_loaded_too_late_for_a_program_without_a_loader() -> None:
    def run(program: Program) -> None:
        with torch.no_grad():
            next(program.model.parameters()).add_(1)
        program.optimizer.step()

    with pytest.raises(RuntimeError, match=r"load checkpoints before swarm.optimizer\(\)"):
        alone(run, loader=False)


def test_what_belongs_to_the_beginning_is_refused_later() -> None:
    def run(program: Program) -> None:
        program.optimizer.load_state_dict(program.optimizer.state_dict())
        program.optimizer.step()
        with pytest.raises(RuntimeError, match="before the first step"):
            program.optimizer.load_state_dict(program.optimizer.state_dict())
        with pytest.raises(RuntimeError, match=r"before swarm.optimizer"):
            program.optimizer.add_param_group({"params": []})

    alone(run, loader=False)


def test_an_optimizer_that_was_replaced_says_so() -> None:
    def run(program: Program) -> None:
        program.training.close("swarm.optimizer() was called again")
        program.optimizer.step()

    with pytest.raises(RuntimeError, match="called again"):
        alone(run, loader=False)


def refused(model: nn.Module, optimizer: torch.optim.Optimizer, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        PlainReplica(model, optimizer)


def test_optimizers_and_models_that_cannot_be_kept_equal() -> None:
    model, other = nn.Linear(2, 2), nn.Linear(2, 2)
    refused(model, torch.optim.LBFGS(model.parameters()), "LBFGS cannot")
    refused(model, torch.optim.SparseAdam(list(model.parameters())), "SparseAdam cannot")
    refused(model, torch.optim.SGD([*model.parameters(), *other.parameters()], lr=0.1), "not in the model")
    tensor_lr = torch.optim.Adam(model.parameters(), lr=torch.tensor(0.1))
    refused(model, tensor_lr, "'lr' is a Tensor")
    waves = nn.Module()
    waves.w = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    refused(waves, torch.optim.SGD(waves.parameters(), lr=0.1), "only real floats")


def test_the_length_is_that_of_a_pass_for_this_peer() -> None:
    program = alone(lambda program: None)
    assert len(program.loader) == -(-SAMPLES // BATCH)
