"""Training without a barrier: nobody waits, weight is conserved, and at the end all are equal."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from fake_exchange import FakeExchange, FakeNetwork
from fake_swarm import FakePeer, FakeSwarm
from torch import Tensor, nn

from lepton_p2p.errors import ConfigError, Dropped, IntegrityError, JobError, StateLost
from lepton_p2p.gossip.account import INCOMING, RETRY
from lepton_p2p.gossip.wire import Header, Kind
from lepton_p2p.identity import PeerId
from lepton_p2p.jobs import Job, job_from_table
from lepton_p2p.models import Built, build
from lepton_p2p.rounds.result import RoundResult
from lepton_p2p.training import Progress, params_digest
from lepton_p2p.training.checkpoints import Place, Upkeep
from lepton_p2p.training.local import LocalCollective, NoStateSource
from lepton_p2p.training.mailbox import Images
from lepton_p2p.training.post import Post
from lepton_p2p.training.snapshots import Snapshot, capture
from lepton_p2p.training.strategies import Context, Gossip, gossip, make_strategy
from lepton_p2p.training.strategies.gossip import target_samples

IDS = tuple(PeerId(f"{index:032x}") for index in range(6))
SAMPLES = 256


def job(**changes: object) -> Job:
    table: dict[str, object] = {
        "seed": 2,
        "batch_size": 4,
        "evaluate_every": 0,
        "model": {"name": "mlp", "sizes": [16, 12, 4]},
        "data": {"name": "synthetic_classification", "samples": SAMPLES, "test_samples": 200},
        "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9},
        "schedule": {"passes": 12},
        "strategy": {"name": "gossip", "push_every": 2},
    }
    return job_from_table({**table, **changes})


class Gossipers:
    """A swarm of gossiping peers; all of ``ids`` are members of the last round."""

    def __init__(self, ids: tuple[PeerId, ...], what: Job | None = None, network: FakeNetwork | None = None) -> None:
        self.job = what or job()
        self.network = network or FakeNetwork()
        self.swarm = FakeSwarm()
        self.swarm.found(ids)
        self.peers: dict[PeerId, FakePeer] = {}

    def add(
        self,
        me: PeerId,
        *,
        founder: bool = True,
        built: Built | None = None,
        on_progress: object = None,
        upkeep: Upkeep | None = None,
    ) -> FakePeer:
        exchange = self.network.exchange(me)
        self.peers[me] = FakePeer(
            self.swarm,
            me,
            self.job,
            built or build(self.job),
            exchange=exchange,
            founder=founder,
            on_progress=on_progress,  # type: ignore[arg-type]
            upkeep=upkeep,
        )
        return self.peers[me]

    def kill(self, me: PeerId) -> None:
        self.network.kill(me)
        self.swarm.kill(me)
        self.peers[me].trainer.request_stop()

    def weight(self, *ids: PeerId) -> float:
        ledgers = [strategy_of(self.peers[me])._post._account.ledger for me in ids]
        assert not any(ledger.waiting or ledger.in_flight for ledger in ledgers)
        return sum(ledger.weight for ledger in ledgers)

    def assert_equal(self, *ids: PeerId) -> None:
        assert len({params_digest(self.peers[me].built.model) for me in ids}) == 1


def strategy_of(peer: FakePeer) -> Gossip:
    strategy = peer.trainer._strategy
    assert isinstance(strategy, Gossip)
    return strategy


@pytest.fixture
def network() -> Iterator[FakeNetwork]:
    network = FakeNetwork()
    yield network
    network.close()


def test_four_peers_learn_and_end_equal(network: FakeNetwork) -> None:
    gossipers = Gossipers(IDS[:4], network=network)
    for me in IDS[:4]:
        gossipers.add(me)
    finals = [peer.start() for peer in gossipers.peers.values()]
    ends = [peer.result() for peer in finals]
    gossipers.assert_equal(*IDS[:4])
    assert gossipers.weight(*IDS[:4]) == 4.0
    assert ends[0].metrics["accuracy"] >= 0.9
    assert all(end.samples >= target_samples(gossipers.job, SAMPLES) for end in ends)
    assert len({end.params_digest for end in ends}) == 1


def slowed(built: Built, release: threading.Event) -> Built:
    """Its third batch takes until ``release`` is set."""
    calls = iter(range(10**9))

    def loss(prediction: Tensor, target: Tensor) -> Tensor:
        if prediction.requires_grad and next(calls) == 2:
            assert release.wait(20), "the others waited for the slow peer"
        return built.loss_fn(prediction, target)

    return Built(built.model, built.train, built.test, loss, built.make_optimizer)


def test_one_that_is_stuck_and_one_that_dies_do_not_make_the_others_wait(network: FakeNetwork) -> None:
    gossipers = Gossipers(IDS[:4], network=network)
    release = threading.Event()
    enough = target_samples(gossipers.job, SAMPLES) * 0.6

    def watch(progress: Progress) -> None:
        if progress.samples >= enough:
            release.set()

    def die(progress: Progress) -> None:
        if progress.step == 40:
            gossipers.kill(IDS[3])

    for me in IDS[:2]:
        gossipers.add(me, on_progress=watch)
    gossipers.add(IDS[2], built=slowed(build(gossipers.job), release))
    gossipers.add(IDS[3], on_progress=die)
    for peer in gossipers.peers.values():
        peer.start()
    ends = [gossipers.peers[me].result() for me in IDS[:3]]
    gossipers.peers[IDS[3]].join()
    gossipers.assert_equal(*IDS[:3])
    assert 0 < gossipers.weight(*IDS[:3]) <= 4.0 + 1e-9
    assert ends[0].metrics["accuracy"] >= 0.9
    own_steps = [strategy_of(gossipers.peers[me])._step for me in IDS[:3]]
    assert own_steps[2] < min(own_steps[:2])


@pytest.mark.parametrize("seed", range(3))
def test_no_weight_is_lost_or_made_when_messages_and_answers_are_lost_or_repeated(seed: int) -> None:
    luck = random.Random(seed)
    fates = ["ok"] * 5 + ["lost"] * 2 + ["unanswered"] * 2 + ["twice"]
    network = FakeNetwork(lambda sender, partner: luck.choice(fates))
    gossipers = Gossipers(IDS[:3], network=network)
    for me in IDS[:3]:
        gossipers.add(me)
    for peer in gossipers.peers.values():
        peer.start()
    for peer in gossipers.peers.values():
        assert peer.result().phase == "done"
    network.close()
    gossipers.assert_equal(*IDS[:3])
    assert gossipers.weight(*IDS[:3]) == 3.0


def test_a_joiner_gets_half_of_a_members_weight_and_its_parameters(network: FakeNetwork) -> None:
    gossipers = Gossipers(IDS[:2], network=network)
    joined = threading.Event()
    joiner_phases: list[str] = []

    def until_joined(progress: Progress) -> None:
        if progress.step == 50:
            gossipers.add(IDS[1], founder=False, on_progress=note).start()
            assert joined.wait(20)

    def note(progress: Progress) -> None:
        joiner_phases.append(progress.phase)
        joined.set()

    gossipers.add(IDS[0], on_progress=until_joined)
    gossipers.peers[IDS[0]].start()
    assert joined.wait(20)
    ends = [gossipers.peers[me].result() for me in IDS[:2]]
    gossipers.assert_equal(*IDS[:2])
    assert joiner_phases[0] == "joining"
    assert "training" in joiner_phases
    assert gossipers.weight(*IDS[:2]) == 1.0
    assert ends[1].metrics["accuracy"] >= 0.9


def test_who_was_dropped_waits_for_a_donor_and_goes_on_with_what_it_has(
    network: FakeNetwork,
) -> None:
    gossipers = Gossipers(IDS[:2], network=network)
    phases: list[str] = []

    def expel(progress: Progress) -> None:
        phases.append(progress.phase)
        mixed = len({strategy_of(peer)._post._account.founding for peer in gossipers.peers.values()}) == 1
        if progress.step >= 20 and mixed and phases.count("joining") == 0:
            for callback in network._peers[IDS[1]].dropped:
                callback()

    gossipers.add(IDS[0])
    gossipers.add(IDS[1], on_progress=expel)
    for peer in gossipers.peers.values():
        peer.start()
    for peer in gossipers.peers.values():
        peer.result()
    gossipers.assert_equal(*IDS[:2])
    assert "joining" in phases
    assert gossipers.weight(*IDS[:2]) == 2.0


def test_where_nobody_has_any_weight_the_state_is_lost(network: FakeNetwork) -> None:
    gossipers = Gossipers(IDS[:2], network=network)
    for me in IDS[:2]:
        gossipers.add(me, founder=False)
    first, second = gossipers.peers.values()
    first.start()
    second.start()
    for peer in (first, second):
        with pytest.raises(StateLost, match="no living peer"):
            peer.result()


def context(what: Job, built: Built, exchange: FakeExchange | None, **more: object) -> Context:
    return Context(what, built, LocalCollective(IDS[0]), NoStateSource(), exchange, **more)  # type: ignore[arg-type]


def test_without_partners_it_trains_alone(network: FakeNetwork) -> None:
    what = job(schedule={"steps": 5})
    built = build(what)
    strategy = make_strategy(context(what, built, network.exchange(IDS[0]), founder=True))
    while not strategy.finished:
        report = strategy.advance()
        assert report.new_samples == 4
    assert strategy.finish().result is not None
    assert report.samples == 20


class Dropping(LocalCollective):
    """The swarm goes on without this peer before the rounds ``when``; the others give it the state again."""

    def __init__(self, *when: int) -> None:
        super().__init__(IDS[0])
        self.calls = 0
        self._when = when

    def all_reduce(self, tensors: Sequence[Tensor], **given: Any) -> RoundResult:
        self.calls += 1
        if self.calls in self._when:
            raise Dropped("the swarm went on without this peer")
        return super().all_reduce(tensors, **{**given, "weight": 1.0})


def test_who_is_dropped_when_a_late_comer_is_welcomed_enters_again(network: FakeNetwork) -> None:
    what = job(schedule={"steps": 1})
    collective = Dropping(2)
    strategy = make_strategy(
        replace(context(what, build(what), network.exchange(IDS[0]), founder=True), collective=collective)
    )
    while not strategy.finished:
        strategy.advance()
    strategy.finish()
    assert strategy.welcome().result is not None
    assert collective.calls == 3
    assert strategy.ready


def test_at_the_end_it_waits_for_what_is_on_its_way_without_running_in_circles(
    network: FakeNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gossip, "SETTLING", 0.5)  # the partner never asks for what it gets
    what = job(schedule={"steps": 1})
    exchange = network.exchange(IDS[0])
    gate = threading.Event()
    network.exchange(IDS[1]).on_push(lambda sender, header, payload: gate.wait(20))
    strategy = make_strategy(context(what, build(what), exchange, founder=True))
    assert isinstance(strategy, Gossip)
    while not strategy.finished:
        strategy.advance()
    post = strategy._post
    assert post.push_half(IDS[1])
    images = Images(strategy.model, 1)
    image = images.take()
    assert image is not None
    assert exchange.handler is not None
    assert exchange.handler(IDS[1], Header(Kind.TRANSFER, 1, 0, 1.0).encode(), image.memory)
    wait, waited = post.wait, []

    def wait_for_answer(seconds: float) -> None:
        waited.append(len(post._account.inbox))
        gate.set()
        wait(seconds)

    post.wait = wait_for_answer  # type: ignore[method-assign]
    assert strategy.finish().result is not None
    assert set(waited) == {0}, "with something in the inbox nothing is waited for"


def test_it_needs_an_exchange() -> None:
    what = job()
    with pytest.raises(ConfigError, match="needs a peer"):
        make_strategy(context(what, build(what), None))


def test_a_batch_that_gives_nan_does_not_reach_the_parameters(network: FakeNetwork) -> None:
    what = job(schedule={"passes": 1})
    built = build(what)
    x = built.train[0].clone()
    x[3] = float("nan")
    bad = Built(built.model, (x, built.train[1]), built.test, built.loss_fn, built.make_optimizer)
    strategy = make_strategy(context(what, bad, network.exchange(IDS[0]), founder=True))
    while not strategy.finished:
        report = strategy.advance()
    assert report.skipped == 4
    assert all(bool(torch.isfinite(p).all()) for p in built.model.parameters())


def both_sides_dropped(gossipers: Gossipers, *ids: PeerId) -> None:
    for me in ids:
        for callback in gossipers.network._peers[me].dropped:
            callback()


def test_if_all_were_dropped_at_once_the_training_goes_on_from_what_they_have(network: FakeNetwork) -> None:
    gossipers = Gossipers(IDS[:2], network=network)
    dropped = threading.Event()

    def drop_all(progress: Progress) -> None:
        if progress.step == 20 and not dropped.is_set():
            dropped.set()
            both_sides_dropped(gossipers, *IDS[:2])

    gossipers.add(IDS[0])
    gossipers.add(IDS[1], on_progress=drop_all)
    for peer in gossipers.peers.values():
        peer.start()
    for peer in gossipers.peers.values():
        assert peer.result().phase == "done"
    gossipers.assert_equal(*IDS[:2])


class TestPost:
    """The post office, message by message."""

    @pytest.fixture
    def post(self, network: FakeNetwork) -> Post:
        self.model = nn.Linear(3, 2)
        self.exchange = network.exchange(IDS[0])
        self.now = 0.0
        self.asked: list[Header] = []
        self.answer = lambda: True
        self.partner = network.exchange(IDS[1])
        self.partner.on_push(self.partner_gets)
        return Post(IDS[0], self.exchange, self.model, weight=1.0, target=100, clock=lambda: self.now)

    def partner_gets(self, sender: PeerId, data: bytes, payload: memoryview) -> bool:
        header = Header.decode(data)
        if header.kind is not Kind.CLAIM:
            return True
        self.asked.append(header)
        return self.answer()

    def receive(self, header: Header | bytes, payload: bytes = b"") -> bool:
        assert self.exchange.handler is not None
        data = header if isinstance(header, bytes) else header.encode()
        return self.exchange.handler(IDS[1], data, memoryview(payload))

    def image(self, value: float) -> bytes:
        images = Images(self.model, 1)
        image = images.take()
        assert image is not None
        for tensor in image.tensors:
            tensor.fill_(value)
        return bytes(image.memory)

    def fill(self, value: float) -> None:
        nn.init.constant_(self.model.weight, value)
        nn.init.constant_(self.model.bias, value)

    def until(self, post: Post, condition: Callable[[], bool]) -> None:
        with post.changed:
            assert post.changed.wait_for(condition, 20)

    def settled(self, post: Post) -> None:
        self.until(post, lambda: post._account.settled)

    def test_what_comes_in_is_mixed_in_proportion_to_the_weights(self, post: Post) -> None:
        self.fill(1.0)
        assert self.receive(Header(Kind.TRANSFER, 1, 0, 3.0), self.image(5.0))
        self.settled(post)
        assert post.collect() == 1
        torch.testing.assert_close(self.model.weight.detach(), torch.full((2, 3), 4.0))
        assert post.weight == 4.0

    def test_what_comes_back_is_mixed_in_as_it_was_sent(self, post: Post) -> None:
        self.fill(1.0)
        self.partner.on_push(lambda sender, header, payload: False)
        assert post.push_half(IDS[1])
        self.settled(post)
        self.fill(5.0)
        assert post.collect() == 1
        torch.testing.assert_close(self.model.weight.detach(), torch.full((2, 3), 3.0))
        assert (post.weight, post.disagreement) == (1.0, None)

    def test_what_the_partner_asks_for_is_its_own(self, post: Post) -> None:
        sent: list[Header] = []
        self.partner.on_push(lambda sender, data, payload: sent.append(Header.decode(data)) is None)
        assert post.push_half(IDS[1])
        self.until(post, lambda: bool(sent))
        claim = Header(Kind.CLAIM, sent[0].id, 9)
        assert [self.receive(claim), self.receive(claim)] == [True, True]
        assert not self.receive(replace(claim, hold=10))
        post.settle()
        assert post.weight == 0.5

    def test_every_exchange_measures_how_far_apart_the_partners_were(self, post: Post) -> None:
        self.fill(2.0)
        assert post.disagreement is None
        for number, value, apart in ((1, 5.0, 1.5), (2, 3.5, 0.0)):
            assert self.receive(Header(Kind.TRANSFER, number, 0, 1.0), self.image(value))
            self.settled(post)
            post.collect()
            assert post.disagreement == pytest.approx(apart)

    def test_the_values_of_before_the_first_weight_are_no_opinion(self, post: Post) -> None:
        post.dropped()
        assert self.receive(Header(Kind.TRANSFER, 1, 0, 1.0), self.image(5.0))
        self.settled(post)
        assert post.collect() == 1
        assert post.disagreement is None
        assert post.weight == 1.0, "its own was another training's, and is given up"

    def test_a_push_is_mixed_once_however_often_it_comes(self, post: Post) -> None:
        self.answer = iter([True, False, False]).__next__  # as a sender answers, each time another hold
        for _ in range(3):
            self.receive(Header(Kind.TRANSFER, 1, 0, 1.0), self.image(5.0))
            self.settled(post)
        assert len({header.hold for header in self.asked}) == len(self.asked) == 3
        assert post.collect() == 1
        assert post.weight == 2.0

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_a_push_with_nan_is_refused(self, post: Post, value: float) -> None:
        assert not self.receive(Header(Kind.TRANSFER, 1, 0, 1.0), self.image(value))
        assert (post.collect(), post.weight) == (0, 1.0)

    def test_a_push_of_another_size_is_refused(self, post: Post) -> None:
        assert not self.receive(Header(Kind.TRANSFER, 1, 0, 1.0), self.image(1.0)[:-1])
        assert not self.receive(Header(Kind.TRANSFER, 2, 0, 1.0))

    def test_random_bytes_are_refused(self, post: Post) -> None:
        assert not self.receive(b"\x00" * 40)
        assert not self.receive(b"")

    def test_the_inbox_is_bounded_and_emptied_by_mixing_and_by_a_no(self, post: Post) -> None:
        image = self.image(1.0)

        def offer(first: int) -> list[bool]:
            return [self.receive(Header(Kind.TRANSFER, first + n, 0, 1.0), image) for n in range(INCOMING + 1)]

        assert offer(0) == [*[True] * INCOMING, False]
        self.settled(post)
        post.collect()
        self.answer = lambda: False
        for first in (10, 20):
            assert offer(first)[0]
            self.settled(post)
        assert post.weight == 1.0 + INCOMING

    def test_a_sender_that_does_not_answer_is_asked_again_but_not_at_once(
        self, post: Post, network: FakeNetwork
    ) -> None:
        network.fate = lambda sender, partner: "unanswered"
        assert self.receive(Header(Kind.TRANSFER, 1, 0, 1.0), self.image(1.0))
        self.until(post, lambda: not post._account._asking)
        for _ in range(3):
            post.clear_up()
        assert len(self.asked) == 1
        network.fate = lambda sender, partner: "ok"
        self.now += RETRY
        post.clear_up()
        self.settled(post)
        assert [header.hold for header in self.asked] == [self.asked[0].hold] * 2
        assert post.collect() == 1

    def test_what_a_dead_peer_was_asked_for_makes_room(self, post: Post, network: FakeNetwork) -> None:
        network.fate = lambda sender, partner: "unanswered"
        for number in range(INCOMING):
            assert self.receive(Header(Kind.TRANSFER, number, 0, 1.0), self.image(1.0))
        network.kill(IDS[1])
        assert post.settled
        assert post._account.lost == INCOMING
        assert post._incoming.take() is not None

    def test_who_asks_is_pushed_to_next(self, post: Post) -> None:
        assert self.receive(Header(Kind.ASK))
        partners = [post.next_partner({IDS[1]}, due=False, choose=lambda peers: peers[0]) for _ in range(2)]
        assert partners == [IDS[1], None]

    def test_counters_spread_with_every_message(self, post: Post) -> None:
        self.receive(Header(Kind.COUNTS, counts={IDS[1]: 30, IDS[2]: 10**15}))
        post.count(5)
        assert post.total == 30 + 100 + 5

    def test_pushes_that_are_on_their_way_are_bounded(self, post: Post) -> None:
        gate = threading.Event()
        self.partner.on_push(lambda sender, header, payload: gate.wait(20) and False)
        sent = [post.push_half(IDS[1]) for _ in range(4)]
        assert sent == [True, True, False, False]
        assert post.weight == 0.25
        gate.set()
        self.settled(post)
        assert post.collect() == 2
        assert post.push_half(IDS[1])


def test_a_model_that_fails_ends_the_training_with_one_line(network: FakeNetwork) -> None:
    def fail(prediction: Tensor, target: Tensor) -> Tensor:
        raise IndexError("Target 5 is\nout of bounds.")

    gossipers = Gossipers(IDS[:1], network=network)
    built = replace(build(gossipers.job), loss_fn=fail)
    peer = gossipers.add(IDS[0], built=built).start()
    with pytest.raises(JobError, match="forward and backward pass failed: IndexError: Target 5 is out of bounds"):
        peer.result()


class OneCheckpoint(Upkeep):
    """Keeps what the peer would write at step ``step``, and the digest of its parameters then."""

    def __init__(self, step: int, model: nn.Module) -> None:
        super().__init__()
        self._step, self._model = step, model
        self.taken: tuple[Snapshot, Place, int] | None = None

    def between_steps(self, place: Place, capture: Callable[[], Snapshot], *, founded: bool) -> None:
        if place.step == self._step and self.taken is None:
            self.taken = capture(), place, params_digest(self._model)


def test_after_a_restart_one_goes_on_from_its_own_parameters_with_all_of_the_weight(network: FakeNetwork) -> None:
    gossipers = Gossipers(IDS[:2], network=network)
    built = build(gossipers.job)
    kept = OneCheckpoint(60, built.model)
    gossipers.add(IDS[0], built=built, upkeep=kept)
    gossipers.add(IDS[1])
    for peer in [peer.start() for peer in gossipers.peers.values()]:
        peer.result()
    assert kept.taken is not None
    snapshot, place, digest = kept.taken

    again = Gossipers(IDS[2:5], network=(other := FakeNetwork()))
    seen: list[tuple[int, int]] = []
    restarted = again.add(
        IDS[2],
        upkeep=Upkeep(recalled=snapshot),
        on_progress=lambda progress: seen.append((progress.step, progress.samples)),
    )
    resumed = strategy_of(restarted)
    resumed.resume(snapshot)
    assert (params_digest(resumed.model), resumed.place, resumed.weight) == (digest, place, 1.0)
    for me in IDS[3:5]:
        again.add(me, founder=False, upkeep=Upkeep(recalled=snapshot))
        strategy_of(again.peers[me]).resume(snapshot)
        assert params_digest(again.peers[me].built.model) != digest, "whose weight is 0 has nothing to say"
    for peer in [peer.start() for peer in again.peers.values()]:
        assert peer.result().phase == "done"
    other.close()
    again.assert_equal(*IDS[2:5])
    assert again.weight(*IDS[2:5]) == 1.0
    assert seen[0][0] == place.step + 1
    assert seen[0][1] >= place.samples + 1


@pytest.mark.parametrize("extra", [{}, {"step": 1, "counts": {"x": 1}, "turns": [0, 0]}, {"step": 1, "counts": 3}])
def test_a_checkpoint_of_another_strategy_is_refused_before_anything_has_changed(
    extra: dict[str, object], network: FakeNetwork
) -> None:
    peer = Gossipers(IDS[:1], network=network).add(IDS[0])
    strategy, before = strategy_of(peer), params_digest(peer.built.model)
    with pytest.raises(IntegrityError, match="gossip"):
        strategy.resume(capture(build(job(seed=9)).model, round=1, extra=extra))
    assert params_digest(peer.built.model) == before
