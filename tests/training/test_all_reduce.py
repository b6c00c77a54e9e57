"""Synchronous data parallel: equal to one process, and replicas equal to each other, whatever happens."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from all_reduce_steps import (
    IDS,
    OPTIMIZERS,
    SAMPLES,
    assert_each_sample_once_per_pass,
    assert_identical,
    at,
    both,
    forget_all,
    hold_until_fetched,
    job,
    join_when,
    start,
)
from fake_swarm import FakePeer, FakeSwarm

from lepton_p2p.errors import Closed, StateLost
from lepton_p2p.jobs import load_job
from lepton_p2p.models import build
from lepton_p2p.replication import vigil
from lepton_p2p.rounds.aggregation import Aggregation
from lepton_p2p.training import params_digest, train_alone
from lepton_p2p.training.local import LocalCollective


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_any_number_of_peers_equals_one_process_on_the_summed_batch(optimizer: str, count: int) -> None:
    what = job(optimizer=OPTIMIZERS[optimizer])
    swarm = FakeSwarm()
    peers = start(swarm, count, what)
    finals = [peer.result() for peer in peers]
    reference = build(what)
    alone = train_alone(what, reference, peers=count)
    assert_identical(swarm, peers)
    assert_each_sample_once_per_pass(swarm, 3)
    assert {final.step for final in finals} == {alone.step}
    for own, theirs in zip(reference.model.parameters(), peers[0].built.model.parameters(), strict=True):
        torch.testing.assert_close(theirs, own, rtol=2e-4, atol=2e-5)
    assert finals[0].metrics["accuracy"] == pytest.approx(alone.metrics["accuracy"], abs=0.051)
    assert finals[0].loss == pytest.approx(alone.loss, rel=0.02)


def test_every_round_asks_for_the_aggregation_of_the_job() -> None:
    table = {"name": "all_reduce", "aggregation": "trimmed_mean", "trim": 2}
    swarm = FakeSwarm()
    for peer in start(swarm, 2, job(strategy=table)):
        peer.result()
    assert set(swarm.aggregations) == {Aggregation("trimmed_mean", trim=2)}


def test_those_with_the_last_samples_of_a_pass_do_not_decide_alone() -> None:
    """97 samples are 8 rounds of 3 peers with 4 samples each, and one sample more, which one of them has."""
    data = {"name": "synthetic_classification", "samples": 97, "test_samples": 40}
    table = {"name": "all_reduce", "aggregation": "median"}
    for strategy, last in (("all_reduce", 1), (table, 3)):
        swarm = FakeSwarm()
        peers = start(swarm, 3, job(strategy=strategy, data=data))
        finals = [peer.result() for peer in peers]
        assert_identical(swarm, peers)
        assert {final.step for final in finals} == {27}, "nobody steps when the schedule is complete"
        assert [len(result.contributors) for result in swarm.results if result.contributors] == ([3] * 8 + [last]) * 3


@pytest.mark.parametrize("rule", ["clip", "trimmed_mean", "median", "centered_clip"])
def test_of_one_contribution_a_robust_aggregation_is_that_one_unless_it_is_clipped(rule: str) -> None:
    given = [torch.tensor([[3.0], [4.0]]), torch.tensor([7.0], dtype=torch.float64)]
    before = [tensor.clone() for tensor in given]
    alone = LocalCollective()
    alone.all_reduce(given, aggregation=Aggregation(rule))
    for tensor, was in zip(given, before, strict=True):
        assert torch.equal(tensor, was)
    alone.all_reduce(given[:1], aggregation=Aggregation("clip", norm=1.0))
    torch.testing.assert_close(given[0], torch.tensor([[0.6], [0.8]]))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_joiner_becomes_bit_identical_while_the_others_go_on(optimizer: str) -> None:
    what = job(optimizer=OPTIMIZERS[optimizer])
    swarm = FakeSwarm()
    swarm.fetch_allowed.clear()
    joiner = FakePeer(swarm, IDS[3], what, build(what))
    join_when(swarm, joiner, 5)
    at(swarm, 12, swarm.fetch_allowed.set)  # six rounds to replay
    hold_until_fetched(swarm, 20)
    peers = [*start(swarm, 2, what), joiner]
    for peer in peers:
        peer.result()
    assert_identical(swarm, peers)
    assert_each_sample_once_per_pass(swarm, 3)
    contributed = [result.round for result in swarm.results if joiner.me in result.contributors]
    assert contributed, "it must have taken part in the end"
    assert min(contributed) > 12
    assert all(len(result.contributors) >= 2 for result in swarm.results if 5 < result.round < 12), "nobody waited"
    assert all(not store.rounds() for store in swarm.stores.values())
    done = [len(result.contributors) for result in swarm.results if result.round < min(contributed) - 1]
    assert swarm.holds == {joiner.me: [sum(done)]}, "it tells the agreement what it holds when it has caught up"


def test_a_joiner_that_arrives_in_the_last_round_is_waited_for() -> None:
    what = job()
    swarm = FakeSwarm()
    last = 1 + 3 * SAMPLES // 8
    joiner = FakePeer(swarm, IDS[3], what, build(what))
    join_when(swarm, joiner, last - 1)
    swarm.fetch_allowed.clear()
    at(swarm, last + 3, swarm.fetch_allowed.set)
    peers = [*start(swarm, 2, what), joiner]
    for peer in peers:
        peer.result()
    assert_identical(swarm, peers)
    assert swarm.round > last


@pytest.mark.parametrize("round", [2, 7, 20])
@pytest.mark.parametrize("victim", [0, 1, 2])
def test_the_samples_of_a_killed_peer_are_used_by_the_others_in_the_same_pass(victim: int, round: int) -> None:
    swarm = FakeSwarm()
    at(swarm, round, swarm.kill, IDS[victim])
    peers = start(swarm, 3, job())
    survivors = [peer for peer in peers if peer.me != IDS[victim]]
    for peer in survivors:
        assert peer.result().phase == "done"
    assert isinstance(peers[victim].join().error, Closed)
    assert_identical(swarm, survivors)
    assert_each_sample_once_per_pass(swarm, 3)


def test_the_first_peer_may_die_and_a_fresh_one_take_its_place() -> None:
    what = job()
    swarm = FakeSwarm()
    fresh = FakePeer(swarm, IDS[5], what, build(what))
    at(swarm, 6, swarm.kill, IDS[0])
    join_when(swarm, fresh, 9)
    peers = [*start(swarm, 3, what)[1:], fresh]
    for peer in peers:
        peer.result()
    assert_identical(swarm, peers)
    assert_each_sample_once_per_pass(swarm, 3)


def test_a_peer_that_was_dropped_fetches_the_state_again() -> None:
    swarm = FakeSwarm()
    at(swarm, 6, swarm.drop, IDS[1])
    peers = start(swarm, 3, job())
    for peer in peers:
        peer.result()
    assert_identical(swarm, peers)
    assert_each_sample_once_per_pass(swarm, 3)
    back = [result.round for result in swarm.results if IDS[1] in result.contributors and result.round > 6]
    assert back


def test_a_donor_that_dies_while_it_is_needed_is_replaced_by_another() -> None:
    what = job()
    swarm = FakeSwarm()
    swarm.fetch_allowed.clear()
    joiner = FakePeer(swarm, IDS[4], what, build(what))
    join_when(swarm, joiner, 4)
    at(swarm, 8, swarm.kill, IDS[0])
    at(swarm, 9, swarm.fetch_allowed.set)
    peers = [*start(swarm, 3, what)[1:], joiner]
    for peer in peers:
        peer.result()
    assert_identical(swarm, peers)


def test_when_all_donors_of_a_snapshot_died_a_newer_one_is_asked_for() -> None:
    what = job(schedule={"passes": 4})
    swarm = FakeSwarm()
    swarm.fetch_allowed.clear()
    first, second = (FakePeer(swarm, me, what, build(what)) for me in IDS[4:6])
    join_when(swarm, first, 3)
    swarm.before_round = both(swarm.before_round, lambda number: forget_all(swarm) if number == 8 else None)
    at(swarm, 9, swarm.fetch_allowed.set)
    join_when(swarm, second, 12)
    peers = [*start(swarm, 2, what), first, second]
    for peer in peers:
        peer.result()
    assert_identical(swarm, peers)
    assert_each_sample_once_per_pass(swarm, 4)


def test_when_the_last_holder_of_the_state_dies_the_joiner_says_so() -> None:
    what = job()
    swarm = FakeSwarm()
    swarm.fetch_allowed.clear()
    joiner = FakePeer(swarm, IDS[4], what, build(what))
    join_when(swarm, joiner, 4)
    at(swarm, 6, swarm.kill, IDS[0])
    at(swarm, 7, swarm.fetch_allowed.set)
    start(swarm, 1, what)
    with pytest.raises(StateLost, match="start the swarm again"):
        joiner.result()


def test_who_may_still_hold_the_state_has_time_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vigil, "PATIENCE", 0.5)
    what = job()
    swarm = FakeSwarm()
    swarm.fetch_allowed.clear()
    joiner = FakePeer(swarm, IDS[4], what, build(what))
    join_when(swarm, joiner, 4)
    at(swarm, 6, swarm.kill, IDS[0])
    at(swarm, 7, swarm.fetch_allowed.set)
    start(swarm, 1, what)
    with pytest.raises(StateLost):
        joiner.result()
    assert swarm.begins[IDS[0]] == [0]
    assert set(swarm.begins[IDS[4]]) == {0}
    assert len(swarm.begins[IDS[4]]) > 1
    assert len(swarm.results) > 12, "it went on looking"


def test_a_joiner_whose_only_member_dies_in_its_first_round_does_not_start_from_scratch() -> None:
    what = job()
    swarm = FakeSwarm()
    joiner = FakePeer(swarm, IDS[4], what, build(what))
    join_when(swarm, joiner, 4)
    at(swarm, 5, swarm.kill, IDS[0])
    start(swarm, 1, what)
    with pytest.raises(StateLost):
        joiner.result()


def test_a_newcomer_that_cannot_fetch_does_not_keep_the_others_for_ever() -> None:
    what = job(schedule={"steps": 12})
    swarm = FakeSwarm()
    swarm.fetch_fails = True
    joiner = FakePeer(swarm, IDS[4], what, build(what))
    join_when(swarm, joiner, 4)
    peers = start(swarm, 2, what)
    for peer in peers:
        assert peer.result().step == 12
    assert_identical(swarm, peers)
    with pytest.raises(StateLost):
        joiner.result()


def test_a_stopped_peer_returns_at_a_boundary_and_leaves_the_others() -> None:
    swarm = FakeSwarm()
    what = job()
    swarm.found(IDS[:2])
    peers = [FakePeer(swarm, me, what, build(what)) for me in IDS[:2]]
    at(swarm, 6, peers[0].trainer.request_stop)
    for peer in peers:
        peer.start()
    assert peers[0].result().phase == "stopped"
    assert peers[1].result().phase == "done"
    assert_each_sample_once_per_pass(swarm, 3)


def test_weights_can_be_had_while_the_training_runs_and_afterwards() -> None:
    swarm = FakeSwarm()
    what = job()
    swarm.found(IDS[:1])
    peer = FakePeer(swarm, IDS[0], what, build(what))
    early = peer.trainer.snapshot_now()
    peer.start()
    assert early.result(20).manifest.round >= 1
    final = peer.result()
    late = peer.trainer.snapshot_now().result(20)
    assert late.tensors().keys() == early.result().tensors().keys()
    for name, parameter in peer.built.model.named_parameters():
        assert torch.equal(late.tensors()[f"param.{name}"], parameter)
    assert final.params_digest == f"{params_digest(peer.built.model):016x}"


def test_a_late_peer_gets_the_final_state_when_all_members_welcome_it() -> None:
    swarm = FakeSwarm()
    what = job(schedule={"steps": 5})
    swarm.found(IDS[:1])
    peer = FakePeer(swarm, IDS[0], what, build(what))
    peer.swarm = FakeSwarm()  # its thread's end must not count as its death
    peer.start().result()
    late = FakePeer(swarm, IDS[1], what, build(what))
    at(swarm, swarm.round + 1, lambda: (late.start(), swarm.changed.wait_for(lambda: late.me in swarm._waiting, 20)))
    host = threading.Thread(target=lambda: (peer.trainer.welcome(), peer.trainer.welcome()))
    host.start()
    late.result()
    host.join(20)
    assert not host.is_alive()
    assert_identical(swarm, [peer, late])


def test_alone_the_shipped_demo_reaches_its_accuracy() -> None:
    shipped = load_job(Path(__file__).parents[2] / "peers" / "digits.toml")
    final = train_alone(shipped, peers=4)
    assert final.metrics["accuracy"] >= 0.95
    assert final.phase == "done"
