"""One run: machines, disturbances one after the other, and after each the promises."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

from jobs_for_peers import tally_job
from network_namespaces import Network
from peer_processes import Launcher, TrainingSwarm

from chaos.deeds import Deeds
from chaos.kinds import Need
from chaos.lineages import Violation
from chaos.machines import CHECKPOINT_EVERY, Machine, Machines, Reporting
from chaos.oracle import Oracle
from chaos.schedule import Disturbance, schedule, turn_of, usable
from chaos.usage import Usage
from chaos.watches import Watch, Watches

ROUNDS_BETWEEN = 5
"""Rounds of all in peace, before the next disturbance."""


@dataclass(frozen=True)
class Plan:
    """What a run is to be.

    minutes: 0 for one turn of all kinds.  bound: seconds in which a good round must come.  pace: seconds that a step
    takes at least.
    """

    seed: int
    minutes: float
    peers: int
    kinds: tuple[str, ...]
    available: frozenset[Need]
    sealed: bool
    bound: float
    pace: float
    folder: Path

    @property
    def disturbances(self) -> Iterator[Disturbance]:
        """Without end, or one turn."""
        chosen = usable(self.kinds, self.available)
        story = schedule(self.seed, self.peers, chosen)
        return story if self.minutes else islice(story, turn_of(chosen))


@dataclass
class Tally:
    """What a run has come to so far."""

    began: float = field(default_factory=time.monotonic)
    happened: dict[str, int] = field(default_factory=dict)
    recoveries: dict[str, list[float]] = field(default_factory=dict)
    """By kind: seconds to the next good round, from a death or from the end of what is no death."""
    rejoins: list[float] = field(default_factory=list)
    """From the start of the last process to the round to which all contribute again."""
    lost_steps: list[int] = field(default_factory=list)
    """By each death of all."""
    lost: int = 0
    """Rounds without a result, as a peer says itself."""
    seconds: float = 0.0
    violation: str = ""


class Run:
    """Made by :meth:`open`; :meth:`go` ends with the plan, or raises what was broken."""

    def __init__(self, plan: Plan, machines: Machines, oracle: Oracle, tell: Callable[[str], None]) -> None:
        self.plan, self.machines, self.oracle, self._tell = plan, machines, oracle, tell
        self.tally, self.usage = Tally(), Usage()
        self._watches = Watches()
        self._deeds = Deeds(machines, on_death=self._died, on_end_of_all=self._all_died)
        self._calm: list[Machine] = []
        self._left: Watch | None = None
        self._began_again = False
        self._broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        oracle.history.on_told = self._watches.look
        oracle.on_broken = self._break

    @classmethod
    @asynccontextmanager
    async def open(cls, plan: Plan, tell: Callable[[str], None]) -> AsyncIterator[Run]:
        """Machines with a swarm on them, which trains."""
        oracle = Oracle()
        async with AsyncExitStack() as stack:
            network = None
            if "network" in plan.available:
                network = Network()
                stack.callback(network.close)
                await network.build(plan.peers)
            logs = plan.folder / "logs"
            logs.mkdir(parents=True)
            launcher = await stack.enter_async_context(Launcher(logs, partial(Reporting, oracle)))
            swarm = await stack.enter_async_context(TrainingSwarm(launcher, plan.folder))
            job = tally_job(plan.folder, steps=1_000_000_000)
            machines = Machines(swarm, plan.folder, job, pace=plan.pace)
            run = cls(plan, machines, oracle, tell)
            await machines.build(plan.peers, network, sealed=plan.sealed, disks="disk" in plan.available)
            yield run

    async def go(self) -> None:
        """Raises :class:`Violation` for a broken promise, ``AssertionError`` for a peer that ended by itself."""
        try:
            async with asyncio.TaskGroup() as group:
                watching = [group.create_task(self._watch_broken()), group.create_task(self._look_around())]
                await self.machines.found()
                await self._all_good(time.monotonic())
                self._tell(f"{self.plan.peers} peers train")
                for disturbance in self.plan.disturbances:
                    if self.plan.minutes and time.monotonic() - self.tally.began > self.plan.minutes * 60:
                        break
                    await self._disturb(disturbance)
                for task in watching:
                    task.cancel()
        except* Exception as failures:
            raise _first(failures) from None
        finally:
            self.tally.seconds = time.monotonic() - self.tally.began

    # -- one disturbance -------------------------------------------------------------------------------

    async def _disturb(self, disturbance: Disturbance) -> None:
        await asyncio.sleep(disturbance.pause)
        await self._in_peace()
        self._tell(str(disturbance))
        self._calm = [machine for machine in self.machines.all if machine.number not in disturbance.victims]
        self._left = None
        async with asyncio.TaskGroup() as group:
            for mishap in disturbance.mishaps:
                group.create_task(self._deeds.happen(mishap))
        healed = time.monotonic()
        again, self._began_again = self._began_again, False
        if self._left is not None and self._calm:
            await self._good(self._left, "those that were left go on")
        watch = await self._all_good(healed)
        standing = [machine.name for machine in self.machines.all]
        if again:
            self._count_lost_steps(standing)
        else:
            self.oracle.settle(standing)
        self._record(disturbance, watch)
        self._look_for_bugs()
        await self._look_at_statuses()

    def _record(self, disturbance: Disturbance, full: Watch) -> None:
        for kind in disturbance.kinds:
            self.tally.happened[kind] = self.tally.happened.get(kind, 0) + 1
        recovery = self._left if self._left is not None and self._calm else full
        self.tally.recoveries.setdefault(disturbance.name, []).append(recovery.seconds)
        told = f"the next good round after {recovery.seconds:.2f} s"
        if recovery is not full:
            self.tally.rejoins.append(full.seconds)
            told += f", all again {full.seconds:.2f} s after the last start"
        self._tell(f"       {told}; {self.oracle.history.settled} rounds")

    def _count_lost_steps(self, standing: list[str]) -> None:
        lost = self.oracle.go_back(standing)
        self.tally.lost_steps.append(lost)
        if lost > 2 * CHECKPOINT_EVERY + 1:
            raise Violation("at most one checkpoint's distance is lost", f"{lost} steps are")

    # -- good rounds -------------------------------------------------------------------------------------

    async def _good(self, watch: Watch, what: str) -> None:
        try:
            await self.machines.swarm.until(what, lambda: watch.done is not None, patience=self.plan.bound)
        except AssertionError as error:
            raise Violation("the swarm goes on", str(error)) from None

    async def _all_good(self, since: float) -> Watch:
        watch = self._watches.add(since, _peers(self.machines.all), whole=True)
        await self._good(watch, "all contribute to one round")
        self._watches.forget()
        return watch

    async def _in_peace(self) -> None:
        """Some rounds of all, one after the other."""
        for _ in range(ROUNDS_BETWEEN):
            await self._all_good(time.monotonic())

    def _died(self, at: float) -> None:
        """The next round of those that nothing is done to is the recovery; another death begins it anew."""
        dead = {peer for machine in self.machines.all if not machine.running for peer in _peers([machine]).values()}
        self._left = self._watches.add(at, _peers(self._calm), dead)

    def _all_died(self) -> None:
        self.oracle.history.died()
        self._began_again = True

    # -- what is looked at all the time ------------------------------------------------------------------

    def _break(self, violation: Violation) -> None:
        if not self._broken.done():
            self._broken.set_exception(violation)

    async def _watch_broken(self) -> None:
        await self._broken

    async def _look_around(self) -> None:
        """Memory and descriptors of all processes."""
        while True:
            for machine in self.machines.running:
                assert machine.process is not None
                self.usage.look(machine.process.name, machine.process.pid)
            await asyncio.sleep(self.usage.EVERY)

    async def _look_at_statuses(self) -> None:
        """What peers say themselves."""
        for machine in self.machines.running:
            self.tally.lost = max(self.tally.lost, (await self.machines.status(machine)).rounds_lost)
        if lost := self.tally.lost + self.oracle.history.rejected:
            raise Violation("no round is lost", f"peers say that {lost} had no result")

    def _look_for_bugs(self) -> None:
        if bugs := [*self.machines.bugs, *self.machines.swarm.bugs()]:
            raise Violation("nobody logs an error", bugs[0])


def _peers(machines: list[Machine]) -> dict[str, str]:
    """Names and ids of the processes on ``machines``."""
    return {machine.name: machine.process.id for machine in machines if machine.process is not None}


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
