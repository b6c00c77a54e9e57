"""Kills and joins without end: no round is lost, replicas agree on every one of them, and nothing grows."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from functools import cache
from signal import SIGKILL

import inputs
from process_swarm import DEADLINE, Nursery, ProcessSwarm, Reply, Worker

EVENTS = 16
"""A kill or a join every hundred rounds or so, which take about a second on two busy cores."""
MOST, LEAST = 6, 3
SIZES = [20_000]


class Ledger:
    """What every peer said of every round, checked as it comes: equal, complete, and the mean of what went in."""

    def __init__(self) -> None:
        self._rounds: dict[int, Reply] = {}
        self._seeds: dict[str, int] = {}
        self._last: dict[str, int] = {}
        self._mean = cache(lambda who: inputs.mean_digest([self._seeds[peer] for peer in who], SIZES, [1] * len(who)))

    def know(self, worker: Worker) -> None:
        self._seeds[worker.peer] = worker.number

    def enter(self, worker: Worker, reply: Reply) -> None:
        assert "error" not in reply, f"worker {worker.number} lost a round: {reply}"
        round = reply["round"]
        assert round == self._last.get(worker.peer, round - 1) + 1, "rounds come one after the other, none is left out"
        self._last[worker.peer] = round
        known = self._rounds.setdefault(round, reply)
        for field in ("epoch", "members", "contributors", "digest", "values"):
            assert reply[field] == known[field], f"round {round} differs in {field}"
        if known is reply:
            assert reply["values"] == self._mean(tuple(reply["contributors"])), "not the mean over its contributors"

    def forget(self, victim: Worker) -> None:
        """What only the dead have told binds nobody."""
        last = self._last.pop(victim.peer, 0)
        if last not in self._last.values() and last == max(self._rounds, default=0):
            del self._rounds[last]

    @property
    def rounds(self) -> int:
        """How many rounds have a result."""
        return len(self._rounds)

    def finished(self, workers: list[Worker]) -> int:
        """The last round that all of ``workers`` have told."""
        return min(self._last.get(worker.peer, 0) for worker in workers)


class Rounds:
    """Rounds without end on all workers of ``swarm``."""

    def __init__(self, swarm: ProcessSwarm) -> None:
        self._swarm = swarm
        self.ledger = Ledger()
        self._loops: dict[Worker, asyncio.Future[Reply]] = {}
        self._readers: dict[Worker, asyncio.Task[None]] = {}
        self._progress = asyncio.Event()
        for worker in swarm.workers:
            self.admit(worker)

    def admit(self, worker: Worker) -> None:
        self.ledger.know(worker)
        self._loops[worker] = worker.ask("loop", seed=worker.number, sizes=SIZES)
        self._readers[worker] = asyncio.create_task(self._read(worker))

    async def _read(self, worker: Worker) -> None:
        while True:
            self.ledger.enter(worker, await worker.rounds.get())
            self._progress.set()

    async def pass_by(self, count: int) -> None:
        """Let the longest-serving worker finish ``count`` rounds."""
        goal = self.ledger.rounds + count
        await self._until(lambda: self.ledger.rounds >= goal, f"{count} more rounds are done")

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(DEADLINE):
                while not condition():
                    self._progress.clear()
                    await self._progress.wait()
                    self._look_for_failures()
        except TimeoutError:
            raise AssertionError(f"not so: {what}\n{await self._swarm.story()}") from None

    def _look_for_failures(self) -> None:
        for reader in self._readers.values():
            if reader.done():
                reader.result()

    async def kill(self, victim: Worker) -> None:
        await self._forget(victim)
        self.ledger.forget(victim)
        victim.signal(SIGKILL)
        await victim.gone()
        self._swarm.bury(victim)

    async def _forget(self, worker: Worker) -> None:
        del self._loops[worker]
        reader = self._readers.pop(worker)
        reader.cancel()
        await asyncio.wait((reader,))

    async def end(self) -> None:
        """Let all finish the same last round."""
        workers = list(self._loops)
        await self._until(lambda: self.ledger.finished(workers) > 0, "the last to join takes part")
        held = await asyncio.gather(*(self._swarm.call(worker, "hold") for worker in workers))
        last = max(reply["round"] for reply in held) + 3
        await asyncio.gather(*(self._swarm.call(worker, "release", last=last) for worker in workers))
        await self._until(lambda: self.ledger.finished(workers) == last, f"all have come to round {last}")
        for worker in workers:
            await self._forget(worker)


async def test_rounds_go_on_through_kills_and_joins(nursery: Nursery) -> None:
    chance = random.Random(4)
    async with ProcessSwarm(nursery, SIZES) as swarm:
        await swarm.grow(4)
        witness = swarm.workers[1]
        usage: list[Reply] = []
        rounds = Rounds(swarm)
        for _ in range(EVENTS):
            await rounds.pass_by(chance.randrange(50, 150))
            if len(swarm.workers) <= LEAST or (len(swarm.workers) < MOST and chance.random() < 0.5):
                swarm.workers.append(await nursery.start(join=[worker.address for worker in swarm.workers]))
                rounds.admit(swarm.workers[-1])
            else:
                await rounds.kill(chance.choice([worker for worker in swarm.workers if worker is not witness]))
            usage.append(await swarm.call(witness, "usage") | {"own": swarm.descriptors(witness)})
        await rounds.pass_by(50)
        await rounds.end()
    early, late = usage[len(usage) // 4], usage[-1]
    assert late["own"] <= early["own"] + 2, usage
    assert late["tasks"] <= early["tasks"] + 10, usage
    assert late["rss"] < early["rss"] + (24 << 20), usage
