"""Outgoing messages by destination: bounded, so that a peer that does not answer costs a bounded amount."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from lepton_p2p.errors import LeptonError

Message = TypeVar("Message")


class Lanes(Generic[Message]):
    """Sends messages through ``deliver(to, message)``, at most ``width`` at a time to one destination.

    Each destination has a queue.  width: 1 keeps the order of messages (the next one leaves when the one before has
    arrived or failed); more lets a message overtake one that hangs.  capacity: messages that may wait for one
    destination; beyond it the oldest is dropped and counted, for the newest says more.

    ``failed(to, message, error)`` is called for a delivery that ended with a :class:`LeptonError`, ``OSError`` or
    ``TimeoutError``; any other exception is a bug and goes to ``crashed``.  Tasks exist only while there is
    something to send, and all of them are owned by this object: see :meth:`flush` and :meth:`aclose`.
    """

    def __init__(
        self,
        deliver: Callable[[str, Message], Awaitable[None]],
        *,
        failed: Callable[[str, Message, Exception], None],
        crashed: Callable[[Exception], None],
        width: int,
        capacity: int,
    ) -> None:
        self._deliver = deliver
        self._failed = failed
        self._crashed = crashed
        self._width = width
        self._capacity = capacity
        self._waiting: dict[str, deque[Message]] = {}
        self._workers: dict[str, set[asyncio.Task[None]]] = {}
        self._closed = False
        self.sent = 0
        self.failures = 0
        self.dropped = 0

    @property
    def pending(self) -> int:
        """Messages that wait or are on their way."""
        return sum(map(len, self._waiting.values())) + sum(map(len, self._workers.values()))

    def put(self, to: str, message: Message) -> None:
        """Queue ``message`` for ``to``; after :meth:`aclose` it is dropped."""
        if self._closed:
            self.dropped += 1
            return
        waiting = self._waiting.setdefault(to, deque())
        waiting.append(message)
        if len(waiting) > self._capacity:
            waiting.popleft()
            self.dropped += 1
        workers = self._workers.setdefault(to, set())
        if len(workers) < self._width:
            task = asyncio.get_running_loop().create_task(self._work(to), name=f"send to {to}")
            workers.add(task)

    async def flush(self) -> None:
        """Wait until nothing waits and nothing is on its way (messages put meanwhile included)."""
        while tasks := [task for workers in self._workers.values() for task in workers]:
            await asyncio.wait(tasks)

    async def aclose(self) -> None:
        """Drop what waits, cancel what is on its way and wait for it; may be called twice."""
        self._closed = True
        self.dropped += sum(map(len, self._waiting.values()))
        self._waiting.clear()
        tasks = [task for workers in self._workers.values() for task in workers]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._workers.clear()  # a task that is cancelled before its first step does not retire itself

    async def _work(self, to: str) -> None:
        try:
            while waiting := self._waiting.get(to):
                await self._send(to, waiting.popleft())
        finally:
            self._retire(to)

    async def _send(self, to: str, message: Message) -> None:
        try:
            await self._deliver(to, message)
        except (LeptonError, OSError) as error:  # TimeoutError is an OSError
            self.failures += 1
            self._failed(to, message, error)
        except Exception as error:
            self._crashed(error)
        else:
            self.sent += 1

    def _retire(self, to: str) -> None:
        """The current worker ends; the last one for a destination leaves no trace of it."""
        task = asyncio.current_task()
        workers = self._workers[to]
        if task is not None:
            workers.discard(task)
        if not workers:
            del self._workers[to]
            self._waiting.pop(to, None)
