"""Containers that a seed kills, pauses and cuts off: after each, one digest of the parameters, and no round lost."""

from __future__ import annotations

import os
import random
from contextlib import AbstractContextManager

import pytest
from composed_swarm import ComposedSwarm, Peer

pytestmark = [pytest.mark.swarm, pytest.mark.chaos, pytest.mark.timeout(1200)]
SEED = int(os.environ.get("SWARM_CHAOS_SEED", "11"))
DEEDS = ("kill", "pause", "disconnect")


def is_gone(swarm: ComposedSwarm, deed: str, victim: Peer) -> AbstractContextManager[None]:
    """For a while."""
    return swarm.paused(victim) if deed == "pause" else swarm.partitioned(victim)


def test_chaos_of_containers(swarm: ComposedSwarm) -> None:
    chance = random.Random(SEED)
    peers = swarm.up(peers=3)
    swarm.wait_for_one_epoch(peers)
    for deed in chance.sample(DEEDS * 2, 2 * len(DEEDS)):
        peers = swarm.living
        victim = chance.choice(peers)
        others = [peer for peer in peers if peer is not victim]
        print(f"{deed} {victim}", flush=True)
        assert all(peer.phase == "training" for peer in others), "the job must be longer for this test to say anything"
        if deed == "kill":
            swarm.kill(victim)
            swarm.wait_for_one_epoch(others)
            swarm.wait_for_progress(others)
            newcomers = swarm.up(peers=3)
            assert newcomers
        else:
            with is_gone(swarm, deed, victim):
                swarm.wait_for_one_epoch(others)
                swarm.wait_for_progress(others)
        swarm.wait_for_one_epoch(swarm.living)
        swarm.wait_for_one_digest(swarm.living)
