"""A training peer is stopped (SIGSTOP): the others go on; continued, it sees that it was dropped and catches up."""

from __future__ import annotations

from signal import SIGCONT, SIGSTOP

from jobs_for_peers import tally_job
from peer_processes import TrainingSwarm
from samples import count_passes, merged


async def test_a_stopped_trainer_is_left_behind_and_comes_back_identical(swarm: TrainingSwarm) -> None:
    job = ("--job", str(tally_job(swarm.folder, steps=1_000_000)))
    hooks = {"weights_every": 10}
    stopped = await swarm.start(*job, hooks=hooks)  # the one that founded the swarm
    others = [await swarm.start(*job, "--join", stopped.address, hooks=hooks) for _ in range(2)]
    await swarm.together(swarm.peers)
    await swarm.trained(swarm.peers, 10)

    stopped.signal(SIGSTOP)
    await swarm.trained(others, 30)
    behind = stopped.last_round
    stopped.signal(SIGCONT)
    await swarm.until("it hears that it was dropped", lambda: "dropped by the swarm" in stopped.log)
    await swarm.together(swarm.peers)
    await swarm.trained(swarm.peers, 10)

    assert stopped.since(behind)[0]["shared"]["round"] > behind + 20, "rounds were made without it"
    for peer in swarm.peers:
        await swarm.stop(peer)
    assert count_passes(merged(swarm.peers)) >= 1
