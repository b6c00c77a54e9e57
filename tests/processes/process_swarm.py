"""Swarms of real processes: start, command, kill and stop them; nothing is waited for without a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import inputs
import psutil
from fork_server import Forked, ForkServer

DEADLINE = 20.0
"""Seconds for anything; ten times what the slowest thing takes on a busy machine, so that it never decides a test."""
SIZES = (3000, 1, 70_000)
Reply = dict[str, Any]


class Died(Exception):
    """The process ended before it answered."""


class Worker:
    """The test's end of one worker."""

    def __init__(
        self, process: Forked, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.pid, self.number = process.pid, number
        self.peer = self.address = ""
        self.link_port = 0
        self.rounds: asyncio.Queue[Reply] = asyncio.Queue()
        """What a ``loop`` tells."""
        self.ended = process.ended
        """The exit status: negative for the signal that ended it."""
        self._writer = writer
        self._ids = itertools.count()
        self._replies: dict[int, asyncio.Future[Reply]] = {}
        self._reading = asyncio.create_task(self._read(reader))

    def ask(self, do: str, **arguments: Any) -> asyncio.Future[Reply]:
        """Send a request; the future ends with its reply, or with :class:`Died`.  ``future.number`` cancels it."""
        number = next(self._ids)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        future.number = number  # type: ignore[attr-defined]
        self._replies[number] = future
        if self._reading.done():
            self._fail()
        else:
            self._writer.write(json.dumps({"id": number, "do": do, **arguments}).encode() + b"\n")
        return future

    async def call(self, do: str, **arguments: Any) -> Reply:
        """Send a request and wait for the reply; errors of the package come back in it."""
        async with asyncio.timeout(DEADLINE):
            return await self.ask(do, **arguments)

    def signal(self, number: int) -> None:
        if not self.ended.done():
            os.kill(self.pid, number)

    async def gone(self) -> int:
        """Wait for the end of the process; its exit status."""
        async with asyncio.timeout(DEADLINE):
            status = await asyncio.shield(self.ended)
            await self._reading
        return status

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                reply = json.loads(line)
                number = reply.pop("id", None)
                if number is None:
                    self.rounds.put_nowait(reply)
                elif not (future := self._replies.pop(number)).done():
                    future.set_result(reply)
        self._fail()
        self._writer.close()

    def _fail(self) -> None:
        replies, self._replies = self._replies, {}
        for future in replies.values():
            if not future.done():
                future.set_exception(Died(f"worker {self.number} ended"))
                future.exception()


class Nursery:
    """Starts workers from one fork server; ends and reaps all of them."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self._numbers = itertools.count()
        self._workers: list[Worker] = []
        self._server = ForkServer(Path(__file__).with_name("zygote.py"), os.environ, deadline=DEADLINE)

    async def __aenter__(self) -> Self:
        await self._server.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.signal(signal.SIGKILL)
        for worker in self._workers:
            await worker.gone()
        await self._server.__aexit__(kind, error, trace)

    async def start(self, **options: Any) -> Worker:
        """A new worker whose peer is started with ``options``."""
        worker = await self.fork()
        reply = await worker.call("start", **options)
        assert "error" not in reply, f"{reply}\n{self.log(worker)}"
        worker.peer, worker.address, worker.link_port = reply["peer"], reply["address"], reply["link_port"]
        return worker

    async def fork(self) -> Worker:
        """A new worker whose peer has not been started."""
        number = next(self._numbers)
        ours, theirs = socket.socketpair()
        log = self.logs / f"worker-{number}.log"
        process = await self._server.fork(str(log).encode(), [theirs])
        worker = Worker(process, number, *await asyncio.open_connection(sock=ours, limit=1 << 20))
        self._workers.append(worker)
        return worker

    def log(self, worker: Worker) -> str:
        """What ``worker`` has logged."""
        return (self.logs / f"worker-{worker.number}.log").read_text(errors="replace")

    def bugs(self) -> list[str]:
        """Every line that was logged as an error."""
        texts = {path.name: path.read_text(errors="replace") for path in sorted(self.logs.glob("*.log"))}
        lines = [f"{name}: {line}" for name, text in texts.items() for line in text.splitlines()]
        return [line for line in lines if "[error" in line or "Traceback" in line]


class ProcessSwarm:
    """The workers that are in one swarm, and rounds of all of them.  options: of every peer that it starts."""

    def __init__(
        self, nursery: Nursery, sizes: Sequence[int] = SIZES, *, aggregation: str = "mean", **options: Any
    ) -> None:
        self.nursery = nursery
        self._options = options
        self.sizes = list(sizes)
        self.aggregation = aggregation
        """Of all its rounds: "mean" or "median"."""
        self.workers: list[Worker] = []
        self._seeds = itertools.count(1)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self.workers:
            worker.signal(signal.SIGKILL)
        for worker in self.workers:
            await worker.gone()

    async def grow(self, count: int, **options: Any) -> None:
        """Start processes until there are ``count``, and wait until all are in one epoch."""
        while len(self.workers) < count:
            join = [worker.address for worker in self.workers]
            self.workers.append(await self.nursery.start(join=join, **{**self._options, **options}))
        await self.settle()

    async def settle(self) -> None:
        """Wait until every worker is in an epoch of exactly as many members as there are workers."""
        await asyncio.gather(
            *(self.call(worker, "wait_for_members", count=len(self.workers)) for worker in self.workers)
        )

    async def call(self, worker: Worker, do: str, **arguments: Any) -> Reply:
        """As ``worker.call``; if there is no answer, the failure shows what everyone logged."""
        try:
            return await worker.call(do, **arguments)
        except TimeoutError:
            raise AssertionError(f"worker {worker.number} did not {do}\n{await self.story()}") from None

    async def story(self) -> str:
        """What everyone logged last, and where it stands: for the message of a test that failed."""
        parts = []
        for worker in self.workers:
            parts += [f"--- worker {worker.number} ({worker.peer[:8]})", self.nursery.log(worker)[-3000:]]
            with contextlib.suppress(Died, TimeoutError):
                async with asyncio.timeout(2.0):
                    parts += [f"{name}: {value}" for name, value in (await worker.ask("inside")).items()]
        return "\n".join(parts)

    def begin(self, more: dict[str, dict[str, Any]] | None = None) -> Round:
        """Hand in the inputs of the next round on all workers; ``more``: arguments of some, by the peer's id."""
        return Round(self, next(self._seeds) * 1000, more or {})

    async def round(self) -> list[Reply]:
        """One round of all workers in which nothing goes wrong."""
        round = self.begin()
        replies = await round.outcomes(self.workers)
        round.check(replies)
        members = {worker.peer for worker in self.workers}
        assert set(replies[0]["members"]) == set(replies[0]["contributors"]) == members
        return replies

    async def on_a_board(self) -> None:
        """Rounds until the workers make them in memory that all of them see."""
        async with asyncio.timeout(DEADLINE):
            while any(reply["bytes_sent"] for reply in await self.round()):
                pass

    def without(self, *absent: Worker) -> ProcessSwarm:
        """The same swarm as seen by all but ``absent``; the processes still belong to this object."""
        rest = ProcessSwarm(self.nursery, self.sizes, aggregation=self.aggregation, **self._options)
        rest.workers = [worker for worker in self.workers if worker not in absent]
        rest._seeds = self._seeds
        return rest

    def descriptors(self, worker: Worker) -> int:
        """Open descriptors of ``worker``, less its connections with fellow workers: those are opened when needed."""
        fellows = {port for other in self.workers if other is not worker for port, _ in _connections(other)}
        return psutil.Process(worker.pid).num_fds() - sum(remote in fellows for _, remote in _connections(worker))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Run rounds until ``condition`` holds."""
        async with asyncio.timeout(DEADLINE):
            while not condition():
                await self.round()

    def bury(self, *dead: Worker) -> None:
        """These are not in the swarm any more."""
        self.workers = [worker for worker in self.workers if worker not in dead]


class Round:
    """One round that is under way on all workers of ``swarm``."""

    def __init__(self, swarm: ProcessSwarm, seed: int, arguments: dict[str, dict[str, Any]]) -> None:
        self._swarm = swarm
        self._seeds = {worker.peer: seed + worker.number for worker in swarm.workers}
        self._weights = {worker.peer: 1 + worker.number % 3 for worker in swarm.workers}
        self.pending = {worker: self._hand_in(worker, arguments.get(worker.peer, {})) for worker in swarm.workers}

    def _hand_in(self, worker: Worker, more: dict[str, Any]) -> asyncio.Future[Reply]:
        seed, weight = self._seeds[worker.peer], self._weights[worker.peer]
        usual = {"seed": seed, "weight": weight, "sizes": self._swarm.sizes, "aggregation": self._swarm.aggregation}
        return worker.ask("all_reduce", **{**usual, **more})

    async def outcomes(self, workers: Iterable[Worker]) -> list[Reply]:
        """The replies of ``workers``, all of which must live."""
        try:
            async with asyncio.timeout(DEADLINE):
                return list(await asyncio.gather(*(self.pending[worker] for worker in workers)))
        except TimeoutError:
            done = {worker.number: future for worker, future in self.pending.items() if future.done()}
            raise AssertionError(f"the round did not end; replies: {done}\n{await self._swarm.story()}") from None

    def check(self, replies: Sequence[Reply]) -> None:
        """Every reply is a result, all are the same, and they are what is made of those that they say they are."""
        for reply in replies:
            assert "error" not in reply, reply
        first = replies[0]
        for reply in replies:
            for field in ("round", "epoch", "members", "contributors", "refused", "digest", "values", "total_weight"):
                assert reply[field] == first[field], f"{field}: {reply} is not {first}"
        who = first["contributors"]
        seeds = [self._seeds[peer] for peer in who]
        if self._swarm.aggregation == "median":
            expected = inputs.median_digest(seeds, self._swarm.sizes)
        else:
            expected = inputs.mean_digest(seeds, self._swarm.sizes, [self._weights[peer] for peer in who])
        assert first["values"] == expected, f"the result is not the {self._swarm.aggregation} over its contributors"


def _connections(worker: Worker) -> list[tuple[int, int]]:
    """Local and remote ports of the established connections of ``worker``."""
    found = psutil.Process(worker.pid).net_connections("tcp")
    return [(one.laddr.port, one.raddr.port) for one in found if one.laddr and one.raddr]
