"""The promises of the swarm, with real containers on a real network: each ends with one digest everywhere."""

from __future__ import annotations

import pytest
from composed_swarm import ComposedSwarm, command

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(900)]


@pytest.fixture
def swarm(paced: ComposedSwarm) -> ComposedSwarm:
    """Its training is slow until the test has done what it does to it, and then only has to end."""
    return paced


def test_healthy_unprivileged_containers_train_and_a_stopped_one_leaves(swarm: ComposedSwarm) -> None:
    peers = swarm.up(peers=2)
    swarm.wait_for_one_epoch(peers)
    for peer in peers:
        assert command("docker", "exec", peer.container, "id", "-un") == "lepton"
        assert command("docker", "exec", peer.container, "lepton-peer", "health", "127.0.0.1:7700").endswith("SERVING")

    leaver = next(peer for peer in peers if peer is not swarm.seed)
    assert swarm.stop(leaver) == 0

    rest = swarm.living
    assert len(rest) == 2
    swarm.wait_for_one_epoch(rest)
    swarm.wait_for_progress(rest)
    swarm.hurry()
    swarm.wait_for_one_result(rest)
    assert min(peer.status["metrics"]["accuracy"] for peer in rest) >= 0.95


def test_killing_the_seed_stops_nobody_and_scaling_up_brings_newcomers_to_the_same_digest(swarm: ComposedSwarm) -> None:
    first = swarm.up(peers=2)
    swarm.wait_for_one_epoch(first)
    swarm.wait_for_progress(first)

    swarm.kill(swarm.seed)

    survivors = swarm.living
    assert len(survivors) == 2
    swarm.wait_for_one_epoch(survivors)
    swarm.wait_for_progress(survivors)

    # compose starts the dead seed's container again as well: to the swarm it is a newcomer like the other two.
    newcomers = swarm.up(peers=4)
    assert len(newcomers) == 3
    assert all(peer.phase == "training" for peer in survivors), "the job must be longer for this test to say anything"

    swarm.wait_for_one_epoch(survivors + newcomers)
    swarm.hurry()
    swarm.wait_for_one_result(survivors + newcomers)


def test_a_partitioned_container_comes_back_and_all_end_with_one_digest(swarm: ComposedSwarm) -> None:
    peers = swarm.up(peers=2)
    swarm.wait_for_one_epoch(peers)
    swarm.wait_for_progress(peers)
    cut_off = next(peer for peer in peers if peer is not swarm.seed)
    others = [peer for peer in peers if peer is not cut_off]

    with swarm.partitioned(cut_off):
        swarm.wait_for_one_epoch(others)
        swarm.wait_for_progress(others)
        assert all(peer.phase == "training" for peer in peers), "the job must be longer for this test to say anything"

    swarm.wait_for_one_epoch(peers)
    swarm.hurry()
    swarm.wait_for_one_result(peers)
    twice = {peer.status["metrics"].get("samples_used_twice", 0) for peer in peers}
    assert len(twice) == 1
    assert twice != {0}, "what was trained apart is part of the result, and what both sides used is counted"
