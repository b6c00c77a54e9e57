"""Synchronous data parallel: equal to one process, and replicas equal to each other, whatever happens."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from fake_swarm import FakePeer, FakeSwarm
from torch import nn

from lepton_p2p.errors import Closed, RoundRejected, StateLost
from lepton_p2p.identity import PeerId
from lepton_p2p.jobs import Job, job_from_table
from lepton_p2p.models import Built, build
from lepton_p2p.training import params_digest, train_alone
from lepton_p2p.training.notes import Note
from lepton_p2p.training.sampler import Cursor

IDS = tuple(PeerId(f"{index:032x}") for index in range(8))
SAMPLES = 96
OPTIMIZERS = {
    "sgd": {"name": "sgd", "lr": 0.05, "momentum": 0.9},
    "adam": {"name": "adam", "lr": 0.01},
    "adamw": {"name": "adamw", "lr": 0.01},
}


def job(**changes: object) -> Job:
    table: dict[str, object] = {
        "seed": 11,
        "batch_size": 4,
        "evaluate_every": 0,
        "model": {"name": "mlp", "sizes": [16, 12, 4]},
        "data": {"name": "synthetic_classification", "samples": SAMPLES, "test_samples": 40},
        "optimizer": OPTIMIZERS["sgd"],
        "schedule": {"passes": 3, "lr": "cosine", "warmup_steps": 4},
    }
    return job_from_table({**table, **changes})


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Peers are threads already."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def start(swarm: FakeSwarm, count: int, what: Job) -> list[FakePeer]:
    swarm.found(IDS[:count])
    return [FakePeer(swarm, me, what, build(what)).start() for me in IDS[:count]]


def join_when(swarm: FakeSwarm, peer: FakePeer, round: int) -> None:
    """Let ``peer`` wait at the door when ``round`` is about to be decided, so that it is in the round after it."""
    hook = swarm.before_round

    def then(number: int) -> None:
        hook(number)
        if number == round:
            peer.start()
            assert swarm.changed.wait_for(lambda: peer.me in swarm._waiting, 20)

    swarm.before_round = then


def at(swarm: FakeSwarm, round: int, action: object, *arguments: object) -> None:
    hook = swarm.before_round

    def then(number: int) -> None:
        hook(number)
        if number == round:
            action(*arguments)  # type: ignore[operator]

    swarm.before_round = then


def used_samples(swarm: FakeSwarm, total: int = SAMPLES) -> dict[int, Counter[int]]:
    """How often each place of each pass is in a result, replayed from the results alone."""
    cursor = Cursor(total, 11, 4)
    used: dict[int, Counter[int]] = {}
    for result in swarm.results:
        for peer in result.contributors:
            claim = Note.decode(result.notes[peer]).claim
            used.setdefault(cursor.pass_number, Counter()).update(p for item in claim for p in range(*item[:2]))
        cursor = cursor.advance(
            members=result.members,
            contributors=result.contributors,
            refused=result.refused,
            notes=result.notes,
            founding=result.round == 1,
        )
    return used


def assert_each_sample_once_per_pass(swarm: FakeSwarm, passes: int, total: int = SAMPLES) -> None:
    used = used_samples(swarm, total)
    assert set(used) == set(range(passes))
    for counter in used.values():
        assert set(counter) == set(range(total))
        assert set(counter.values()) == {1}


def assert_identical(swarm: FakeSwarm, peers: list[FakePeer]) -> None:
    """At the end, and (what the members themselves said) before every round."""
    assert len({params_digest(peer.built.model) for peer in peers}) == 1
    assert all(len(said) <= 1 for said in swarm.digests.values())


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


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_joiner_becomes_bit_identical_while_the_others_go_on(optimizer: str) -> None:
    what = job(optimizer=OPTIMIZERS[optimizer])
    swarm = FakeSwarm()
    swarm.fetch_allowed.clear()
    joiner = FakePeer(swarm, IDS[3], what, build(what))
    join_when(swarm, joiner, 5)
    at(swarm, 12, swarm.fetch_allowed.set)  # six rounds to replay
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


def both(first: object, second: object) -> object:
    def call(number: int) -> None:
        first(number)  # type: ignore[operator]
        second(number)  # type: ignore[operator]

    return call


def forget_all(swarm: FakeSwarm) -> None:
    for store in swarm.stores.values():
        store.clear()


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


def test_a_joiner_whose_only_member_dies_in_its_first_round_does_not_start_from_scratch() -> None:
    what = job()
    swarm = FakeSwarm()
    joiner = FakePeer(swarm, IDS[4], what, build(what))
    join_when(swarm, joiner, 4)
    at(swarm, 5, swarm.kill, IDS[0])
    start(swarm, 1, what)
    with pytest.raises(StateLost):
        joiner.result()


def test_a_round_that_was_rejected_changes_nothing() -> None:
    swarm = FakeSwarm()
    swarm.reject = {1, 5, 6, 9}
    peers = start(swarm, 2, job())
    for peer in peers:
        peer.result()
    assert_identical(swarm, peers)
    reference = build(job())
    train_alone(job(), reference, peers=2)
    for own, theirs in zip(reference.model.parameters(), peers[0].built.model.parameters(), strict=True):
        torch.testing.assert_close(theirs, own, rtol=2e-4, atol=2e-5)


def test_rounds_that_are_always_rejected_end_the_training() -> None:
    swarm = FakeSwarm()
    swarm.reject = set(range(5, 99))
    for peer in start(swarm, 2, job()):
        with pytest.raises(RoundRejected):
            peer.result()
    assert swarm.round == 7


def poisoned(what: Job, samples: list[int]) -> Built:
    built = build(what)
    x = built.train[0].clone()
    x[samples] = float("nan")
    return Built(built.model, (x, built.train[1]), built.test, built.loss_fn, built.make_optimizer)


def test_a_sample_that_gives_nan_is_tried_twice_then_skipped_and_counted() -> None:
    what = job()
    swarm = FakeSwarm()
    swarm.found(IDS[:3])
    peers = [FakePeer(swarm, me, what, poisoned(what, [17])).start() for me in IDS[:3]]
    finals = [peer.result() for peer in peers]
    assert_identical(swarm, peers)
    assert all(bool(torch.isfinite(p).all()) for p in peers[0].built.model.parameters())
    report = finals[0].report
    assert report is not None
    assert 3 <= report.skipped <= 3 * 8, "the sample itself in every pass, and at most what shared its batches"
    assert report.samples + report.skipped == 3 * SAMPLES
    refused = [(result.round, result.refused) for result in swarm.results if result.refused]
    assert len(refused) == 6, "twice in each pass"
    assert all(first != second for (_, first), (_, second) in zip(refused[::2], refused[1::2], strict=True))


def test_data_that_are_all_bad_end_the_training_with_a_reason() -> None:
    what = job()
    swarm = FakeSwarm()
    swarm.found(IDS[:2])
    peers = [FakePeer(swarm, me, what, poisoned(what, list(range(SAMPLES)))).start() for me in IDS[:2]]
    for peer in peers:
        with pytest.raises(RoundRejected, match="diverged"):
            peer.result()


def with_batch_norm(what: Job) -> Built:
    built = build(what)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    model.register_buffer("constant", torch.tensor([0.1, 0.7]))
    return Built(model, built.train, built.test, built.loss_fn, built.make_optimizer)


def test_batch_statistics_stay_equal_and_constants_stay_what_they_are() -> None:
    what = job(batch_size=8)
    swarm = FakeSwarm()
    joiner = FakePeer(swarm, IDS[3], what, with_batch_norm(what))
    join_when(swarm, joiner, 4)
    swarm.found(IDS[:2])
    peers = [*(FakePeer(swarm, me, what, with_batch_norm(what)).start() for me in IDS[:2]), joiner]
    finals = [peer.result() for peer in peers]
    assert_identical(swarm, peers)
    model = peers[0].built.model
    norm = model[1]  # type: ignore[index]
    assert int(norm.num_batches_tracked) == finals[0].step
    assert float(norm.running_mean.abs().sum()) > 0
    assert torch.equal(model.constant, torch.tensor([0.1, 0.7]))


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
    from pathlib import Path

    from lepton_p2p.jobs import load_job

    shipped = load_job(Path(__file__).parents[2] / "peers" / "digits.toml")
    final = train_alone(shipped, peers=4)
    assert final.metrics["accuracy"] >= 0.95
    assert final.phase == "done"
