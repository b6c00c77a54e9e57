"""Plain loops in which no single program decides: gradients are aggregated, hyperparameters are voted on."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from all_reduce_steps import IDS, at
from fake_swarm import FakeSwarm
from plain_programs import OPTIMIZERS, Program, data, network, start, train
from torch import nn

from lepton_p2p.errors import Closed
from lepton_p2p.rounds.aggregation import Aggregation
from lepton_p2p.training import params_digest
from lepton_p2p.training.hyperparameters import Hyperparameters

MEDIAN = Aggregation("median")
RULES = [MEDIAN, *map(Aggregation, ("clip", "trimmed_mean", "centered_clip"))]


def loss(model: nn.Module) -> float:
    x, y = data()
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model(x), y))


def poisoned(program: Program) -> None:
    """A program whose gradients are a thousand times too long and whose learning rate is absurd."""
    for _ in program.loader.passes(3):
        for x, y, _ in program.loader:
            program.inner.param_groups[0]["lr"] = 1e9
            program.optimizer.zero_grad()
            (-1000 * nn.functional.cross_entropy(program.model(x), y)).backward()  # type: ignore[no-untyped-call]
            program.optimizer.step()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.rule)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_replicas_are_identical_and_each_round_asks_for_the_rule(rule: Aggregation, optimizer: str) -> None:
    swarm = FakeSwarm()
    programs = start(swarm, 3, train(2, schedule=True), make=OPTIMIZERS[optimizer], aggregation=rule)
    digests = {params_digest(program.finish().model) for program in programs}
    assert len(digests) == 1
    assert {how and (how.rule, how.votes) for how in swarm.aggregations} == {(rule.rule, 1)}
    assert loss(programs[0].model) < 0.9 * loss(network())


@pytest.mark.parametrize("who", [0, 2], ids=["who would lead", "another"])
@pytest.mark.parametrize("rule", [MEDIAN, Aggregation("centered_clip")], ids=lambda rule: rule.rule)
def test_a_program_with_absurd_gradients_and_learning_rate_is_outvoted(who: int, rule: Aggregation) -> None:
    swarm = FakeSwarm()
    swarm.found(IDS[:3])
    runs: list[Any] = [train(3)] * 3
    runs[who] = poisoned
    programs = [Program(swarm, me, run, aggregation=rule) for me, run in zip(IDS, runs, strict=False)]
    for program in [program.start() for program in programs]:
        program.finish()
    honest = [program for number, program in enumerate(programs) if number != who]
    assert {lr for program in honest for lr in program.lrs} == {0.05}
    assert loss(honest[0].model) < 0.9 * loss(network())
    assert len({params_digest(program.model) for program in programs}) == 1


def test_a_late_vote_is_none_of_a_program_that_died() -> None:
    swarm = FakeSwarm()
    at(swarm, 6, swarm.kill, IDS[0])
    programs = start(swarm, 3, train(2, schedule=True), aggregation=MEDIAN)
    with pytest.raises(Closed):
        programs.pop(0).finish()
    assert len({params_digest(program.finish().model) for program in programs}) == 1


def test_a_vote_gives_the_middle_number_to_all_infinities_included() -> None:
    lrs = [0.5, 0.1, 0.3]
    optimizers = [torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=lr) for lr in lrs]
    for optimizer in optimizers:
        optimizer.param_groups[0]["bound"] = math.inf
        optimizer.param_groups[0]["floor"] = -math.inf
    hyper = [Hyperparameters(optimizer, voted=True) for optimizer in optimizers]
    parts = [torch.empty(one.size, dtype=torch.float64) for one in hyper]
    for one, part in zip(hyper, parts, strict=True):
        one.propose(part, leading=False)
        assert bool(part.isfinite().all())
    middle = torch.stack(parts).median(0).values
    for one, optimizer in zip(hyper, optimizers, strict=True):
        one.settle(middle)
        group = optimizer.param_groups[0]
        assert (group["lr"], group["bound"], group["floor"]) == (0.3, math.inf, -math.inf)


def test_without_anybody_who_votes_a_step_uses_what_was_agreed_last() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.5)
    hyper = Hyperparameters(optimizer, voted=True)
    optimizer.param_groups[0]["lr"] = 0.1
    hyper.propose(torch.empty(hyper.size, dtype=torch.float64), leading=False)
    hyper.settle(torch.zeros(hyper.size, dtype=torch.float64))
    assert optimizer.param_groups[0]["lr"] == 0.5
