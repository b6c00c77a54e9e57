"""Two sides of a split swarm become one: the weighted mean of both, the heavier one's optimizer, nobody restarted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from all_reduce_steps import IDS, OPTIMIZERS, assert_identical, at, job, start
from fake_swarm import FakeCollective, FakePeer, FakeSwarm, WatchedStore
from torch import nn

from lepton_p2p.identity import PeerId
from lepton_p2p.models import build
from lepton_p2p.replication import vigil
from lepton_p2p.replication.cursor import Cursor
from lepton_p2p.replication.notes import Note
from lepton_p2p.rounds.result import RoundResult
from lepton_p2p.training.plain import PlainTraining
from lepton_p2p.training.plain_replica import PlainReplica

LONG = {"passes": 8}


def two_sides(what, apart: int, together: int) -> tuple[FakeSwarm, FakeSwarm, list[FakePeer], list[FakePeer]]:  # type: ignore[no-untyped-def]
    """Two swarms of two peers that began from the same state; the second goes over to the first after ``apart`` rounds
    of its own, when the first has done ``together``.
    """
    large, small = FakeSwarm(), FakeSwarm()
    many = start(large, 2, what)
    small.found(IDS[2:4])
    few = [FakePeer(small, me, what, build(what)) for me in IDS[2:4]]

    def over(*_: object) -> None:
        for peer in few:
            peer.go_over(large)

    at(small, apart + 1, over)
    reached = large.before_round

    def wait_for_them(number: int) -> None:
        reached(number)
        if number == together:
            for peer in few:
                peer.start()
            assert large.changed.wait_for(lambda: set(large._waiting) == set(IDS[2:4]), 20)

    large.before_round = wait_for_them
    return large, small, many, few


def unions(swarm: FakeSwarm) -> list[RoundResult]:
    notes = [(result, Note.decode(result.notes[peer])) for result in swarm.results for peer in result.contributors]
    return [result for result, note in notes if note.branch is not None]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_side_brings_in_what_it_did_once_and_all_are_bit_identical(optimizer: str) -> None:
    what = job(optimizer=OPTIMIZERS[optimizer], schedule=LONG)
    large, small, many, few = two_sides(what, apart=5, together=9)
    finals = [peer.result() for peer in (*many, *few)]
    (brought,) = unions(large)
    assert brought.contributors[0] in IDS[2:4]
    assert_identical(large, [*many, *few])
    twice = {final.metrics["samples_used_twice"] for final in finals}
    rounds = [result for result in small.results if result.contributors]
    assert twice == {2.0 * 4 * len(rounds)}, "both sides were at the beginning of the same pass"
    assert {final.samples for final in finals} == {96 * 8 + 8 * len(rounds)}
    assert large.holds.keys() == set(IDS[:4])
    (work,) = {large.holds[peer][-1] for peer in (*IDS[:2], *brought.contributors)}
    assert all(told[-1] >= work for told in large.holds.values()), "who catches up later tells of the rounds since, too"


def test_the_bearer_may_die_in_that_round_and_another_bears() -> None:
    large, _, many, few = two_sides(job(schedule=LONG), apart=5, together=9)
    killed: list[FakePeer] = []

    def kill_the_bearer(number: int) -> None:
        bearing = [peer for peer in few if peer.me in large._inputs and Note.decode(large._inputs[peer.me].note).branch]
        if bearing and not killed:
            killed.extend(bearing)
            large.kill(bearing[0].me)

    hook = large.before_round
    large.before_round = both(hook, kill_the_bearer)
    survivors = [peer for peer in (*many, *few) if peer.result_or_none() is not None]
    assert len(survivors) == 3
    assert len(unions(large)) == 1
    assert_identical(large, survivors)


def test_a_side_whose_parameters_have_diverged_is_not_brought_in() -> None:
    large, small, many, few = two_sides(job(schedule=LONG), apart=5, together=9)

    def diverge(*_: object) -> None:
        for peer in few:
            with torch.no_grad():
                next(peer.built.model.parameters()).fill_(math.nan)

    at(small, 6, diverge)
    for peer in (*many, *few):
        peer.result()
    assert unions(large) == []
    assert any(result.refused for result in large.results)
    assert_identical(large, [*many, *few])


def test_if_all_that_held_the_state_die_the_training_goes_on_from_what_was_brought(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vigil, "PATIENCE", 1.5)
    large, _, many, few = two_sides(job(schedule=LONG), apart=5, together=9)
    large.fetch_allowed.clear()

    def die(*_: object) -> None:
        for peer in many:
            large.kill(peer.me)
        large.fetch_allowed.set()

    at(large, 11, die)
    finals = [peer.result() for peer in few]
    assert {final.samples for final in finals} == {96 * 8}, "a whole training, from where they had been"
    assert_identical(large, few)


def test_the_way_to_the_mean_is_weighted_and_moves_buffers_but_not_the_optimizer() -> None:
    def replica(shift: float, count: int) -> PlainReplica:
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(shift)
            model[1].num_batches_tracked.fill_(count)
            model[1].running_mean.fill_(shift)
        made = PlainReplica(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
        made.begin(Cursor(10, 1, 1))
        return made

    here, twin, there = replica(0.0, 10), replica(0.0, 10), replica(1.0, 50)
    before = [parameter.detach().clone() for parameter in here.model.parameters()]
    here.gather_nothing()
    here.displace(there.capture(1), 0.25)
    ways = [tensor.clone() for tensor in here.tensors]
    for one in (here, twin):
        one.apply(ways, replace(one.cursor, unions=1, step=1))
    for old, parameter in zip(before, here.model.parameters(), strict=True):
        assert torch.allclose(parameter, old + 0.25)
    norm = here.model[1]
    assert (int(norm.num_batches_tracked), norm.running_mean.tolist()) == (20, [0.25, 0.25])
    assert here.digest() == twin.digest()
    assert not here.optimizer.state


def both(first: Callable[[int], object], second: Callable[[int], object]) -> Callable[[int], None]:
    def call(number: int) -> None:
        first(number)
        second(number)

    return call


@pytest.mark.parametrize("bearer", [IDS[0], IDS[5]], ids=["this peer", "another"])
def test_a_plain_loops_gradient_waits_while_a_branch_is_brought_and_counts_after_it(bearer: PeerId) -> None:
    swarm = FakeSwarm()
    swarm.found(IDS[:1])
    store = WatchedStore(swarm)
    swarm.stores[IDS[0]] = store
    model = nn.Linear(1, 1, bias=False)
    collective = FakeCollective(swarm, IDS[0])
    training = PlainTraining(
        model,
        torch.optim.SGD(model.parameters(), lr=1.0),
        collective=collective,
        state_source=swarm,
        store=store,
        seen=lambda: swarm.round,
    )

    def step(gradient: float) -> None:
        model.weight.grad = torch.full_like(model.weight, gradient)
        assert training.step() is not None

    step(1.0)
    before = model.weight.item()
    training.replica.cursor = replace(training.cursor, bearer=bearer)
    step(0.25)
    assert model.weight.item() == pytest.approx(before - 0.25)
    brought, own = swarm.results[-2:]
    assert brought.contributors == (), "nobody had anything to bring"
    assert own.contributors == IDS[:1]
