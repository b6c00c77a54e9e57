"""Synchronous data parallel when rounds have no result, numbers are not finite, or the model keeps statistics."""

from __future__ import annotations

import pytest
import torch
from all_reduce_steps import IDS, SAMPLES, assert_identical, job, join_when, start
from fake_swarm import FakePeer, FakeSwarm
from torch import nn

from lepton_p2p.errors import RoundRejected
from lepton_p2p.jobs import Job
from lepton_p2p.models import Built, build
from lepton_p2p.training import train_alone


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
