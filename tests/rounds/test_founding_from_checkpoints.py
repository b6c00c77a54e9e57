"""Who founds when peers come back with checkpoints: never one that is behind what another one holds."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model import VirtualSwarm

from lepton_p2p.identity import PeerId
from lepton_p2p.rounds.messages import Standing

SEEDS = int(os.environ.get("LEPTON_TEST_SEEDS", "150"))

counts = st.integers(0, 50)


@st.composite
def standings(draw: st.DrawFn) -> Standing:
    origin = draw(counts)
    return Standing(draw(counts), origin + draw(counts), draw(counts), draw(st.integers(1, 2**64 - 1)), origin)


def work_of(swarm: VirtualSwarm, peer: PeerId) -> int:
    return swarm.hosts[peer].machine.progress.work


def origin_of(swarm: VirtualSwarm, peer: PeerId) -> int:
    return swarm.hosts[peer].machine.progress.origin


def rounds_together(swarm: VirtualSwarm, more: int = 2) -> None:
    """Until all live peers are in one epoch and have done some rounds in it."""
    swarm.run_until(swarm.settled, limit=120.0)
    goal = max(swarm.hosts[peer].machine.progress.completed for peer in swarm.live()) + more
    swarm.run_until(lambda: all(swarm.hosts[peer].machine.progress.completed >= goal for peer in swarm.live()))
    swarm.check_histories()
    swarm.check_contributions()


@given(standings(), standings())
def test_of_two_lineages_exactly_one_yields(one: Standing, two: Standing) -> None:
    if one.tag != two.tag:
        assert one.yields_to(two) != two.yields_to(one)


@given(standings(), standings())
def test_a_lineage_behind_the_origin_of_the_other_yields_whatever_its_size(one: Standing, two: Standing) -> None:
    if one.work < two.origin:
        assert one.yields_to(two)


def test_if_all_seek_the_one_with_the_most_work_founds_and_not_the_lowest_id() -> None:
    swarm = VirtualSwarm(3)
    peers = [swarm.add(found=False, wants_rounds=False, held=held) for held in (20, 70, 0, 50)]
    swarm.run_until(swarm.settled)
    assert {origin_of(swarm, peer) for peer in peers} == {70}
    assert {work_of(swarm, peer) for peer in peers} == {70}
    assert not any(swarm.hosts[peer].dropped for peer in peers), "nobody founded in vain"


def test_of_several_with_the_same_work_the_lowest_id_founds() -> None:
    swarm = VirtualSwarm(4)
    peers = [swarm.add(found=False, held=40) for _ in range(4)]
    rounds_together(swarm)
    assert {origin_of(swarm, peer) for peer in peers} == {40}


def test_a_first_peer_with_a_lost_disk_yields_to_one_that_comes_with_a_checkpoint() -> None:
    swarm = VirtualSwarm(5)
    first = swarm.add(found=True)
    swarm.run_until(lambda: work_of(swarm, first) > 3)
    keeper = swarm.add(found=False, held=5000)
    rounds_together(swarm)
    assert (swarm.hosts[first].dropped, swarm.hosts[keeper].dropped) == (1, 0)
    assert origin_of(swarm, first) == 5000
    assert work_of(swarm, first) > 5000


def test_a_whole_swarm_that_began_anew_yields_to_one_peer_with_the_work() -> None:
    swarm = VirtualSwarm(6)
    fresh = [swarm.add(found=number == 0) for number in range(4)]
    swarm.run_until(lambda: swarm.settled() and work_of(swarm, fresh[0]) > 20)
    swarm.add(found=False, held=100_000)
    rounds_together(swarm)
    assert all(origin_of(swarm, peer) == 100_000 for peer in fresh)


def test_an_old_checkpoint_costs_a_swarm_that_is_ahead_of_it_nothing() -> None:
    swarm = VirtualSwarm(7)
    peers = [swarm.add(found=number == 0) for number in range(3)]
    swarm.run_until(lambda: swarm.settled() and work_of(swarm, peers[0]) > 40)
    swarm.add(found=False, held=30)
    swarm.add(found=True, held=35)
    rounds_together(swarm)
    assert all(swarm.hosts[peer].dropped == 0 for peer in peers)
    assert all(origin_of(swarm, peer) == 0 for peer in swarm.live())


@pytest.mark.parametrize("seed", range(SEEDS))
def test_whatever_dies_and_comes_back_with_whichever_disk_no_living_checkpoint_is_ahead_of_the_swarm(seed: int) -> None:
    """Crashes of some and of all, restarts with a current, old or lost disk, with and without seeds, lost messages."""
    swarm = VirtualSwarm(seed)
    started = {swarm.add(found=True): 0}
    swarm.loss = swarm.rng.choice([0.0, 0.1])
    best = 0
    for _ in range(10):
        swarm.run(swarm.rng.random() * 0.8)
        swarm.check_histories()
        live = swarm.live()
        best = max([best, *(work_of(swarm, peer) for peer in live)])
        fate = swarm.rng.random()
        if fate < 0.2:
            for peer in live:
                swarm.crash(peer)
        elif fate < 0.5 and live:
            swarm.crash(swarm.rng.choice(live))
        for _ in range(swarm.rng.randrange(1, 3)):
            if len(swarm.live()) < 6:
                held = swarm.rng.choice([0, best // 2, best, max(0, best - 3)])
                started[swarm.add(found=swarm.rng.random() < 0.3, held=held)] = held
    swarm.loss = 0.0
    swarm.run(20.0)
    if not any(swarm.hosts[peer].machine.epoch for peer in swarm.live()) and len(swarm.live()) == 1:
        started[swarm.add(found=True)] = 0  # one alone, that was told to join, waits for a swarm
    rounds_together(swarm)
    for peer in swarm.live():
        assert work_of(swarm, peer) >= max(started[other] for other in swarm.live())
