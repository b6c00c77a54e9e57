"""Gossip among real processes: nobody waits for anybody, and in the end all agree."""

from __future__ import annotations

import asyncio
from signal import SIGCONT, SIGSTOP
from statistics import fmean

import pytest
from jobs_for_peers import gossiping_digits
from peer_processes import PeerProcess, TrainingSwarm

from lepton_p2p.client import connect

PACE = 0.006
SLOWER = 5


def disagreements(peer: PeerProcess) -> list[float]:
    """How far its partners were away at its exchanges; each is reported until the next."""
    seen = [step["metrics"]["disagreement"] for step in peer.steps if "disagreement" in step["metrics"]]
    return [value for value, before in zip(seen, [None, *seen], strict=False) if value != before]


async def steps_until_they_know(victim: PeerProcess, others: list[PeerProcess]) -> list[int]:
    """Silence ``victim``; how many steps each of the others has made when it hears that it is gone."""

    async def until_told(peer: PeerProcess) -> int:
        before = len(peer.steps)
        async with connect(peer.address) as client:
            listening = client.events()
            ready.release()
            async for event in listening:
                if event.kind == "gone" and event.peer.startswith(victim.id):
                    return len(peer.steps) - before
        raise AssertionError("the stream of events ended")

    ready = asyncio.Semaphore(0)
    async with asyncio.TaskGroup() as group:
        counts = [group.create_task(until_told(peer)) for peer in others]
        for _ in others:
            await ready.acquire()
        victim.signal(SIGSTOP)
    return [count.result() for count in counts]


@pytest.mark.timeout(150)
async def test_nobody_waits_for_the_slow_or_the_silent_and_all_agree_in_the_end(swarm: TrainingSwarm) -> None:
    job = ("--job", str(gossiping_digits(swarm.folder, passes=44)))
    first = await swarm.start(*job, env={"PACE": str(PACE)})
    join = (*job, "--join", first.address)
    slow = await swarm.start(*join, env={"PACE": str(SLOWER * PACE)})
    fast = [await swarm.start(*join, env={"PACE": str(PACE)}) for _ in range(2)]
    await swarm.until("all train", lambda: all(peer.steps and peer.steps[-1]["new"] for peer in swarm.peers))

    began = [len(peer.steps) for peer in (slow, *fast)]
    await swarm.until("some steps are made", lambda: len(fast[0].steps) > began[1] + 100)
    made = [len(peer.steps) - before for peer, before in zip((slow, *fast), began, strict=True)]
    assert 2 * made[0] < min(made[1:]), f"the fast went at the pace of the slow: {made}"
    assert made[0] > 0

    # Until the others know, the silent peer is a partner like any other, whose answers never come.
    counts = await steps_until_they_know(first, [slow, *fast])
    assert min(counts[1:]) >= 20, f"steps while the first was silent: {counts}"
    await swarm.kill(first)

    survivors = [slow, *fast]
    await swarm.done(survivors)
    for peer in survivors:
        measured = disagreements(peer)
        tenth = max(1, len(measured) // 10)
        assert fmean(measured[-tenth:]) < fmean(measured[: 5 * tenth]) / 2, f"{peer.name}: {measured}"
    accuracies = {peer.rounds[peer.last_round]["metrics"]["accuracy"] for peer in survivors}
    assert len(accuracies) == 1, "one model"
    assert accuracies.pop() >= 0.95


async def test_one_joins_with_nothing_and_takes_part_in_the_last_round(swarm: TrainingSwarm) -> None:
    job = ("--job", str(gossiping_digits(swarm.folder, passes=12)))
    first = await swarm.start(*job, env={"PACE": str(PACE)})
    await swarm.until("it trains", lambda: len(first.steps) > 10)
    joiner = await swarm.start(*job, "--join", first.address, env={"PACE": str(PACE)})
    await swarm.done([first, joiner])
    assert any(step["new"] for step in joiner.steps), "it trained"


async def test_one_that_was_stopped_and_believed_dead_comes_back_and_all_agree_in_the_end(swarm: TrainingSwarm) -> None:
    job = ("--job", str(gossiping_digits(swarm.folder, passes=40)))
    first = await swarm.start(*job, env={"PACE": str(PACE)})
    others = [await swarm.start(*job, "--join", first.address, env={"PACE": str(PACE)}) for _ in range(2)]
    await swarm.until("all train", lambda: all(peer.steps and peer.steps[-1]["new"] for peer in swarm.peers))
    await steps_until_they_know(first, others)
    first.signal(SIGCONT)
    before = len(first.steps)
    await swarm.until("it trains again", lambda: sum(step["new"] > 0 for step in first.steps[before + 1 :]) > 10)
    await swarm.done(swarm.peers)
    assert len({peer.rounds[peer.last_round]["metrics"]["accuracy"] for peer in swarm.peers}) == 1, "one model"
    assert "gave up what was trained apart" not in first.log, "what it had is a share of the same training"
