"""A job with a robust aggregation: as a job with a mean, peers may die and join, and all hold the same."""

from __future__ import annotations

from pathlib import Path
from signal import SIGKILL

from jobs_for_peers import small_job
from peer_processes import TrainingSwarm
from samples import merged

STRATEGY = """
[strategy]
name = "all_reduce"
aggregation = "trimmed_mean"
trim = 1
"""


def robust_job(folder: Path) -> Path:
    """One that does not end."""
    file = small_job(folder, steps=1_000_000)
    file.write_text(file.read_text() + STRATEGY)
    return file


async def test_one_dies_another_joins_and_all_hold_the_same(swarm: TrainingSwarm) -> None:
    first = await swarm.start("--job", str(robust_job(swarm.folder)))
    others = [await swarm.start("--join", first.address) for _ in range(3)]
    await swarm.together([first, *others])
    await swarm.trained(swarm.peers, 20)
    first.signal(SIGKILL)
    await swarm.until("it is dead", lambda: not first.running)
    await swarm.trained(others, 40)
    joiner = await swarm.start("--join", others[0].address)
    await swarm.together([*others, joiner])
    await swarm.trained([*others, joiner], 60)
    merged(swarm.peers)


async def test_a_swarm_that_becomes_too_small_says_so(swarm: TrainingSwarm) -> None:
    first = await swarm.start("--job", str(robust_job(swarm.folder)))
    second = await swarm.start("--join", first.address)
    await swarm.together([first, second])
    await swarm.trained([first, second], 20)
    merged([first, second])
    for peer in (first, second):
        assert "too few members contribute for trimmed_mean" in peer.log
