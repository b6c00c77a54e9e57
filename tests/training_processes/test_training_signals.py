"""SIGTERM and SIGINT: the peer leaves in good order with exit code 0, and the others lose nothing."""

from __future__ import annotations

import os
import signal

import psutil
import pytest
from jobs_for_peers import tally_job, wide_job
from peer_processes import PeerProcess, TrainingSwarm, status_of
from samples import count_passes, merged


def processes_in_the_group_of(peer: PeerProcess) -> list[int]:
    """Every peer is started in a process group of its own."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == peer.pid:
                found.append(process.pid)
        except ProcessLookupError:
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
async def test_a_peer_told_to_stop_leaves_and_the_others_go_on(swarm: TrainingSwarm, number: signal.Signals) -> None:
    job = ("--job", str(tally_job(swarm.folder, steps=1_000_000)))
    leaver = await swarm.start(*job)
    others = [await swarm.start(*job, "--join", leaver.address, hooks={"weights_every": 10}) for _ in range(2)]
    await swarm.together(swarm.peers)
    await swarm.stop(leaver, number)
    assert not processes_in_the_group_of(leaver)
    await swarm.trained(others, 20)
    for peer in others:
        assert (await status_of(peer)).rounds_lost == 0
        assert "a peer has left" in peer.log, "it said goodbye; nobody had to find out"
    for peer in others:
        await swarm.stop(peer, number)
    assert count_passes(merged(swarm.peers)) >= 1


async def test_idle_joining_and_finished_peers_can_be_told_too(swarm: TrainingSwarm) -> None:
    idle = await swarm.start()
    await swarm.stop(idle)
    trainer = await swarm.start("--job", str(wide_job(swarm.folder)))
    joining = await swarm.begin("--join", trainer.address)
    await swarm.until("it is a member", lambda: joining.last_round > 0)
    await swarm.stop(joining)
    starting = await swarm.begin("--join", trainer.address)
    starting.signal(signal.SIGTERM)
    await swarm.until("it is gone", lambda: not starting.running)
    assert starting.status in (0, -signal.SIGTERM), "either the command line or the interpreter got the signal"
    await swarm.trained([trainer], 3)
    await swarm.stop(trainer, signal.SIGINT)


SLOW_BUILD = """
import threading

def build():
    print("building", flush=True)
    threading.Event().wait()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
async def test_a_build_that_does_not_end_keeps_nobody_from_stopping(
    swarm: TrainingSwarm, number: signal.Signals
) -> None:
    file = swarm.folder / "slow.py"
    file.write_text(SLOW_BUILD)
    peer = await swarm.begin("--job", str(file))
    await swarm.until("it builds", lambda: "building" in peer.lines)
    await swarm.stop(peer, number)
