"""How each mishap is done to machines, and undone; one context manager for each, entered when it begins."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM

from network_namespaces import Place

from chaos.kinds import Mishap
from chaos.machines import Machine, Machines

_BUSY = "import sys, time\nend = time.monotonic() + float(sys.argv[1])\nwhile time.monotonic() < end: pass"
NO_ROOM = "a checkpoint could not be written"
Deed = Callable[[Mishap], AbstractAsyncContextManager[None]]


class Deeds:
    """``on_death`` is called with the time of every kill; ``on_end_of_all`` when all are dead."""

    def __init__(
        self, machines: Machines, *, on_death: Callable[[float], None], on_end_of_all: Callable[[], None]
    ) -> None:
        self._machines = machines
        self._on_death, self._on_end_of_all = on_death, on_end_of_all

    async def happen(self, mishap: Mishap) -> None:
        """From its beginning to its end; both are the schedule's."""
        deed: Deed = getattr(self, mishap.deed)
        await asyncio.sleep(mishap.after)
        async with deed(mishap):
            await asyncio.sleep(mishap.lasts)

    def _victims(self, mishap: Mishap) -> list[Machine]:
        return [self._machines.all[number] for number in mishap.victims]

    def _places(self, numbers: tuple[int, ...]) -> list[Place]:
        places = [self._machines.all[number].place for number in numbers]
        return [place for place in places if place is not None]

    # -- deaths ------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def kill(self, mishap: Mishap) -> AsyncIterator[None]:
        victims = self._victims(mishap)
        self._on_death(await self._machines.end(victims, SIGKILL))
        yield
        for machine in victims:
            await self._machines.start_again(machine, with_disk=bool(mishap.strength))

    @asynccontextmanager
    async def leave(self, mishap: Mishap) -> AsyncIterator[None]:
        victims = self._victims(mishap)
        self._on_death(await self._machines.end(victims, SIGTERM))
        yield
        for machine in victims:
            await self._machines.start_again(machine, with_disk=True)

    @asynccontextmanager
    async def power(self, mishap: Mishap) -> AsyncIterator[None]:
        places, victims = self._places(mishap.victims), self._victims(mishap)
        for place in places:
            await place.run("ip", "link", "set", "eth0", "down")
        self._on_death(await self._machines.end(victims, SIGKILL))
        yield
        for place in places:
            await place.run("ip", "link", "set", "eth0", "up")
        for machine in victims:
            await self._machines.start_again(machine, with_disk=True)

    @asynccontextmanager
    async def kill_all(self, mishap: Mishap) -> AsyncIterator[None]:
        machines = self._machines
        await machines.end(machines.all, SIGKILL)
        self._on_end_of_all()
        yield
        # So many must hold the same before the first step is made: then what was lost is one checkpoint's distance.
        await machines.found(options=("--min-peers", str(len(machines.all))))

    # -- processes and machines --------------------------------------------------------------------------

    @asynccontextmanager
    async def stop(self, mishap: Mishap) -> AsyncIterator[None]:
        stopped = [machine.process for machine in self._victims(mishap) if machine.process is not None]
        for process in stopped:
            process.signal(SIGSTOP)
        try:
            yield
        finally:
            for process in stopped:
                process.signal(SIGCONT)

    @asynccontextmanager
    async def load(self, mishap: Mishap) -> AsyncIterator[None]:
        # They end by themselves, whatever becomes of this process.
        argv = [sys.executable, "-S", "-c", _BUSY, str(mishap.lasts)]
        busy = [await asyncio.create_subprocess_exec(*argv) for _ in range(2 * (os.cpu_count() or 1))]
        yield
        for process in busy:
            await process.wait()

    @asynccontextmanager
    async def disk(self, mishap: Mishap) -> AsyncIterator[None]:
        victims = [(machine, machine.process) for machine in self._victims(mishap)]
        saids = [process.listen() for _, process in victims if process is not None]
        ballast: list[Path] = []

        def noticed() -> bool:
            # Again and again: who was just writing a checkpoint makes room by removing an old one.
            ballast[:] = [machine.fill() for machine, _ in victims]
            return all(said(NO_ROOM) for said in saids)

        await self._machines.swarm.until("the disk is noticed to be full", noticed)
        yield
        for file in ballast:
            file.unlink()
        before = [machine.checkpoints()[-1:] for machine, _ in victims]
        await self._machines.swarm.until(
            "checkpoints are written again",
            lambda: all(machine.checkpoints()[-1:] > last for (machine, _), last in zip(victims, before, strict=True)),
        )

    # -- networks ----------------------------------------------------------------------------------------

    @asynccontextmanager
    async def close(self, mishap: Mishap) -> AsyncIterator[None]:
        for place in self._places(mishap.victims):
            await place.run("ss", "--kill", "--tcp", "state", "established")
        yield

    @asynccontextmanager
    async def reset(self, mishap: Mishap) -> AsyncIterator[None]:
        rule = ("--protocol", "tcp", "--jump", "REJECT", "--reject-with", "tcp-reset")
        places = self._places(mishap.victims)
        for place in places:
            await place.rule("-I", "INPUT", *rule)
            await place.rule("-I", "OUTPUT", *rule)
        yield
        for place in places:
            await place.rule("-D", "INPUT", *rule)
            await place.rule("-D", "OUTPUT", *rule)

    @asynccontextmanager
    async def cut(self, mishap: Mishap) -> AsyncIterator[None]:
        async with self._cut(mishap, heard=True, said=True):
            yield

    @asynccontextmanager
    async def deafen(self, mishap: Mishap) -> AsyncIterator[None]:
        async with self._cut(mishap, heard=True, said=False):
            yield

    @asynccontextmanager
    async def silence(self, mishap: Mishap) -> AsyncIterator[None]:
        async with self._cut(mishap, heard=False, said=True):
            yield

    @asynccontextmanager
    async def _cut(self, mishap: Mishap, *, heard: bool, said: bool) -> AsyncIterator[None]:
        places, others = self._places(mishap.victims), self._places(mishap.others)
        for place in places:
            await place.cut("-I", others, heard=heard, said=said)
        yield
        for place in places:
            await place.cut("-D", others, heard=heard, said=said)

    @asynccontextmanager
    async def loss(self, mishap: Mishap) -> AsyncIterator[None]:
        rule = ("--match", "statistic", "--mode", "random", "--probability", str(mishap.strength), "--jump", "DROP")
        for place in self._places(mishap.victims):
            await place.rule("-I", "INPUT", *rule)
        yield
        for place in self._places(mishap.victims):
            await place.rule("-D", "INPUT", *rule)

    @asynccontextmanager
    async def rate(self, mishap: Mishap) -> AsyncIterator[None]:
        shape = ("tbf", "rate", f"{int(mishap.strength * 1000)}kbit", "burst", "32kbit", "latency", "400ms")
        for place in self._places(mishap.victims):
            await place.run("tc", "qdisc", "replace", "dev", "eth0", "root", *shape)
        yield
        for place in self._places(mishap.victims):
            await place.run("tc", "qdisc", "delete", "dev", "eth0", "root")
