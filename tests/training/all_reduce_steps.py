"""Steps of the tests of synchronous training: jobs, peers, what happens when, and what must hold afterwards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from fake_swarm import FakePeer, FakeSwarm

from lepton_p2p.identity import PeerId
from lepton_p2p.jobs import Job, job_from_table
from lepton_p2p.models import build
from lepton_p2p.replication.cursor import Cursor
from lepton_p2p.replication.notes import Note
from lepton_p2p.training import params_digest

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


def at(swarm: FakeSwarm, round: int, action: Callable[..., object], *arguments: object) -> None:
    hook = swarm.before_round

    def then(number: int) -> None:
        hook(number)
        if number == round:
            action(*arguments)

    swarm.before_round = then


def hold_until_fetched(swarm: FakeSwarm, round: int) -> None:
    """Decide ``round`` only when somebody has got the state: it takes part in later ones, however slow its thread."""

    def hold() -> None:
        assert swarm.changed.wait_for(lambda: swarm.fetched > 0, 20)

    at(swarm, round, hold)


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
            founders=result.members if result.round == 1 else (),
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


def both(first: Callable[[int], object], second: Callable[[int], object]) -> Callable[[int], None]:
    def call(number: int) -> None:
        first(number)
        second(number)

    return call


def forget_all(swarm: FakeSwarm) -> None:
    for store in swarm.stores.values():
        store.clear()
