"""Peers die and join without pause, and the training never notices: no round and no sample lost, all bits equal.

For longer, and with everything else that may happen: ``make chaos``.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from jobs_for_peers import BATCH, SAMPLES, tally_job
from peer_processes import PeerProcess, TrainingSwarm, descriptors, resident, status_of, threads
from samples import count_passes, merged

EVENTS = 30
MOST, FEWEST = 6, 2
ROUNDS_BETWEEN = 20

POOL = min(32, (os.cpu_count() or 1) + 4)
"""Threads of asyncio's default pool: started one by one when they are first needed, kept as long as the loop."""


class Churn:
    """Kills and joins, at random; one peer, the witness, is spared, so that something can be compared."""

    def __init__(self, swarm: TrainingSwarm, job: Path) -> None:
        self.swarm = swarm
        self.job = ("--job", str(job))
        self.random = random.Random(11)

    async def found(self) -> None:
        self.first = await self.swarm.start(*self.job, hooks={"weights_every": 50})
        self.witness = await self.join(self.first)
        await self.join(self.first)
        await self.swarm.together(self.swarm.living)

    async def join(self, *seeds: PeerProcess) -> PeerProcess:
        addresses = ",".join(dict.fromkeys(seed.address for seed in seeds))
        return await self.swarm.start(*self.job, "--join", addresses, hooks={"weights_every": 50})

    async def event(self, number: int) -> None:
        living = self.swarm.living
        kill = len(living) == MOST or (len(living) > FEWEST and self.random.random() < 0.5)
        if number == 0:
            await self.swarm.kill(self.first)
        elif kill:
            await self.swarm.kill(self.random.choice([peer for peer in living if peer is not self.witness]))
        else:
            # Any seed may be killed before it has answered; the witness is the one that is not.
            await self.join(self.random.choice(living), self.witness)

    async def events(self, count: int) -> None:
        """``count`` events.  None waits for a newcomer: it, or its donors, may be hit while it catches up."""
        for number in range(count):
            await self.event(number)
            await self.swarm.trained([self.witness], ROUNDS_BETWEEN)

    async def come_to_rest(self, count: int) -> None:
        """``count`` peers that train together."""
        while len(self.swarm.living) > count:
            await self.swarm.kill(next(peer for peer in self.swarm.living if peer is not self.witness))
        while len(self.swarm.living) < count:
            await self.join(self.witness)
        await self.swarm.together(self.swarm.living)
        await self.swarm.trained(self.swarm.living, ROUNDS_BETWEEN)


@pytest.mark.timeout(300)
async def test_kills_and_joins_without_pause(swarm: TrainingSwarm) -> None:
    churn = Churn(swarm, tally_job(swarm.folder, steps=1_000_000))
    await churn.found()
    await churn.come_to_rest(3)
    witness = churn.witness
    before = descriptors(witness, swarm.living), threads(witness), resident(witness)
    await churn.events(EVENTS)
    await churn.come_to_rest(3)

    fds = f"no more than {before[0]} descriptors are open"
    await swarm.until(fds, lambda: descriptors(witness, swarm.living) <= before[0])
    await swarm.until("threads have ended", lambda: threads(witness) <= before[1] + POOL)
    assert resident(witness) < before[2] + (24 << 20)
    for peer in swarm.living:
        assert (await status_of(peer)).rounds_lost == 0
    for peer in swarm.living:
        await swarm.stop(peer)

    ledger = merged(swarm.peers)
    assert any("weights" in entry for entry in ledger), "the count was never compared with the parameters"
    assert count_passes(ledger) >= EVENTS * ROUNDS_BETWEEN * BATCH // SAMPLES
