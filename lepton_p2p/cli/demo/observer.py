"""Looking at all peers of the demo at once, through the same client that everybody has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from lepton_p2p.cli.demo.processes import DemoFailed, Process
from lepton_p2p.client import Client, SwarmStatus, connect
from lepton_p2p.errors import LeptonError

LOOK_SECONDS = 0.25
"""Between two looks while nothing is measured."""

Statuses = Mapping[str, SwarmStatus]
"""The last known status by process name."""


@dataclass(slots=True)
class Watched:
    """A peer of the demo: its process, the way to ask it, and what it said last (None: nothing yet)."""

    process: Process
    address: str
    client: Client
    killed: bool = False
    last: SwarmStatus | None = field(default=None)


class Observer:
    """Async context manager; asks the peers that it was told of, and shows every look to ``show``.

    ``interval``: seconds between two looks.
    """

    def __init__(self, show: Callable[[list[Watched]], None], *, interval: float = LOOK_SECONDS) -> None:
        self._show = show
        self._interval = interval
        self._stack = AsyncExitStack()
        self.peers: dict[str, Watched] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def add(self, process: Process, address: str) -> Watched:
        """Watch one more."""
        client = await self._stack.enter_async_context(connect(address))
        watched = self.peers[process.name] = Watched(process, address, client)
        return watched

    @property
    def alive(self) -> list[Watched]:
        """Those that were not killed."""
        return [peer for peer in self.peers.values() if not peer.killed]

    async def look(self) -> Statuses:
        """Ask all that live; one that does not answer is left out; :class:`DemoFailed` if one has died by itself."""
        async with asyncio.TaskGroup() as group:
            for peer in self.alive:
                group.create_task(self._ask(peer))
        self._show(list(self.peers.values()))
        for peer in self.alive:
            if not peer.process.running:
                code = peer.process.popen.returncode
                raise DemoFailed(f"{peer.process.name} ended with {code}:\n{peer.process.last_words()}")
        return {peer.process.name: peer.last for peer in self.alive if peer.last is not None}

    async def _ask(self, peer: Watched) -> None:
        try:
            peer.last = await peer.client.status()
        except LeptonError:  # it is busy or has died; the next look tells which
            return

    async def until(
        self, what: str, holds: Callable[[Statuses], bool], *, timeout: float, interval: float | None = None
    ) -> Statuses:
        """Look until ``holds``; :class:`DemoFailed` naming ``what`` was waited for, after ``timeout`` seconds."""
        try:
            async with asyncio.timeout(timeout):
                while True:
                    statuses = await self.look()
                    if len(statuses) == len(self.alive) and holds(statuses):
                        return statuses
                    await asyncio.sleep(self._interval if interval is None else interval)
        except TimeoutError:
            raise DemoFailed(f"waited {timeout:.0f} s in vain until {what}") from None
