"""What happens in the demo: a swarm starts, trains, loses its first peer, gains a fresh one, and ends in agreement."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lepton_p2p.cli.demo.observer import Observer, Statuses, Watched
from lepton_p2p.cli.demo.processes import DemoFailed, Nursery, Process
from lepton_p2p.cli.demo.verdict import Outcome
from lepton_p2p.cli.views import members_in_epoch
from lepton_p2p.identity import short
from lepton_p2p.jobs import Job
from lepton_p2p.membership.messages import Status
from lepton_p2p.transport.values import Phase

KILL_AT = 0.3
"""Part of the training after which the first peer dies: late enough to have learnt, early enough to join again."""
KILL_GOSSIP_AT = 0.1
"""The same without a barrier: a pass takes a fraction of the time, a process starts no faster."""
MEASURE_SECONDS = 0.01
"""Between two looks while the recovery is measured."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The job (its schedule in passes), how many peers, and how many seconds any one wait may take.

    ``alone_file``: the job of the one process that the swarm is compared with.
    """

    job: Job
    alone_file: Path
    peers: int
    patience: float

    @property
    def synchronous(self) -> bool:
        return self.job.strategy.name == "all_reduce"

    @property
    def kill_at(self) -> float:
        """Part of the training after which the first peer dies."""
        return KILL_AT if self.synchronous else KILL_GOSSIP_AT


class Story:
    """Tells it; ``say`` gets a line for everything that happens."""

    def __init__(self, plan: Plan, nursery: Nursery, observer: Observer, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._nursery = nursery
        self._observer = observer
        self._say = say

    async def tell(self) -> Outcome:
        """Run it all; :class:`DemoFailed` if it comes to a halt.  The peers still run at the end."""
        began = time.monotonic()
        # A synchronous swarm computes what one process with the summed batch does; gossiping peers step alone.
        summed = self._plan.peers if self._plan.synchronous else 1
        alone = self._nursery.spawn("alone", "lepton_p2p.cli.demo.alone", [str(self._plan.alone_file), str(summed)])
        first = await self._gather()
        await self._train(first)
        recovery = await self._kill(first)
        await self._join()
        statuses = await self._finish()
        reference = await self._reference(alone)
        any_status = next(iter(statuses.values()))
        return Outcome(
            strategy=self._plan.job.strategy.name,
            peers=self._plan.peers,
            accuracy_swarm=any_status.metrics.get("accuracy", 0.0),
            accuracy_alone=reference,
            rounds_done=max(status.rounds_done for status in statuses.values()),
            rounds_retried=max(status.rounds_retried for status in statuses.values()),
            rounds_lost=max(status.rounds_lost for status in statuses.values()),
            recovery_seconds=recovery,
            digests={short(status.peer.id): status.params_digest for status in statuses.values()},
            seconds=time.monotonic() - began,
        )

    async def _start(self, *arguments: str) -> Watched:
        process = self._nursery.spawn_peer(f"peer{len(self._observer.peers) + 1}", *arguments)
        return await self._watch(process)

    async def _watch(self, process: Process) -> Watched:
        peer, address = await process.listening(self._plan.patience)
        self._say(f"peer {peer} listens on {address}")
        return await self._observer.add(process, address)

    async def _gather(self) -> Watched:
        """Start the peers and wait until all see all."""
        count = self._plan.peers
        self._say(f"starting {count} peers on this machine")
        first = await self._start("--listen", "127.0.0.1:0")
        processes = [
            self._nursery.spawn_peer(f"peer{number}", "--join", first.address) for number in range(2, count + 1)
        ]
        for process in processes:
            await self._watch(process)

        def all_see_all(statuses: Statuses) -> bool:
            return all(
                sum(member.status is Status.ALIVE for member in status.members) == count for status in statuses.values()
            )

        await self._observer.until("all peers see each other", all_see_all, timeout=self._plan.patience)
        self._say(f"{count} peers see each other")
        return first

    async def _train(self, first: Watched) -> None:
        """Submit the job to the first peer and wait until all are in the middle of it."""
        job = self._plan.job
        passes = job.schedule.passes or 1
        await first.client.submit(job)
        self._say(f"job {job.name} submitted to the first peer: {passes} passes over the data, {job.strategy.name}")

        def midway(statuses: Statuses) -> bool:
            if any(status.phase is Phase.DONE for status in statuses.values()):
                raise DemoFailed("the job was done before its middle was seen: give it more passes")
            training = all(status.phase is Phase.TRAINING for status in statuses.values())
            passed = max(status.data_pass for status in statuses.values())
            return training and self._together(statuses) and passed > self._plan.kill_at * passes

        await self._observer.until("all peers are in the middle of the job", midway, timeout=self._plan.patience)

    def _together(self, statuses: Statuses) -> bool:
        if not self._plan.synchronous:
            return True
        return all(members_in_epoch(status) == len(statuses) for status in statuses.values())

    async def _kill(self, first: Watched) -> float:
        """SIGKILL to the first peer; seconds until the others have gone on."""
        victim, step = first.last, first.last.step if first.last else 0
        if victim is None:
            raise DemoFailed(f"{first.process.name} never answered")
        self._say(f"killing peer {short(victim.peer.id)} (the first, SIGKILL) at step {step}")
        before = {peer.process.name: peer.last for peer in self._observer.alive}
        killed = time.monotonic()
        first.process.kill()
        first.killed = True
        rounds: dict[str, int] = {}

        def next_round(statuses: Statuses) -> bool:
            for name, status in statuses.items():
                gone = all(member.peer.id != victim.peer.id for member in status.members if member.in_epoch)
                if gone and status.epoch and status.round > rounds.setdefault(name, status.round):
                    return True
            return False

        def all_stepped(statuses: Statuses) -> bool:
            return all(
                status.step > (seen.step if (seen := before.get(name)) else 0) for name, status in statuses.items()
            )

        await self._observer.until(
            "the others go on without the killed peer",
            next_round if self._plan.synchronous else all_stepped,
            timeout=self._plan.patience,
            interval=MEASURE_SECONDS,
        )
        seconds = time.monotonic() - killed
        self._say(f"the others went on {seconds:.2f} s after the kill")
        return seconds

    async def _join(self) -> None:
        """A fresh peer that knows nothing but one address, until it trains (or has come too late for that)."""
        seed = self._observer.alive[0].address
        fresh = await self._start("--join", seed)
        self._say(f"a fresh peer joins at {fresh.address} with nothing but --join {seed}")

        def trains(statuses: Statuses) -> bool:
            return statuses[fresh.process.name].phase in (Phase.TRAINING, Phase.DONE)

        statuses = await self._observer.until("the fresh peer trains", trains, timeout=self._plan.patience)
        status = statuses[fresh.process.name]
        if status.phase is Phase.TRAINING:
            passes = self._plan.job.schedule.passes
            self._say(f"the fresh peer trains with the others, in pass {status.data_pass} of {passes}")
        else:
            self._say("the fresh peer has come when the training was over")

    async def _finish(self) -> Statuses:
        """Until every peer that lives is done, the fresh one included."""

        def done(statuses: Statuses) -> bool:
            return all(status.phase is Phase.DONE for status in statuses.values())

        statuses = await self._observer.until("every peer is done", done, timeout=self._plan.patience)
        self._say("every peer is done")
        return statuses

    async def _reference(self, alone: Process) -> float:
        """Test accuracy of one process on the same job."""
        if alone.running:
            self._say("waiting for the one process that trains the same job")
        try:
            async with asyncio.timeout(self._plan.patience):
                code = await alone.exited()
        except TimeoutError:
            raise DemoFailed(f"one process alone is not done after {self._plan.patience:.0f} s more") from None
        if code != 0:
            raise DemoFailed(f"training in one process ended with {code}:\n{alone.last_words()}")
        return float(json.loads(alone.last_words(1))["accuracy"])
