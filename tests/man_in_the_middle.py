"""One who sits on the wire between two peers: sees everything that passes, and can change it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

Change = Callable[["Passing", bool, bytes], bytes]
"""``change(passing, outbound, data)``: what goes on instead of ``data``; called before ``data`` is noted."""


@dataclass
class Passing:
    """One connection through the middle: what came from the side that connected (``out``), and what was answered."""

    number: int
    out: bytearray = field(default_factory=bytearray)
    back: bytearray = field(default_factory=bytearray)
    ended: bool = False


class Middle:
    """Accepts connections on :attr:`port` and passes them on to :attr:`target` on this machine, until it is left."""

    def __init__(self, target: int = 0, change: Change | None = None) -> None:
        self.port = 0
        self.target = target
        self.passing: list[Passing] = []
        self._change = change or (lambda passing, outbound, data: data)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passing = Passing(len(self.passing))
        self.passing.append(passing)
        try:
            with contextlib.suppress(OSError):
                there, back = await asyncio.open_connection("127.0.0.1", self.target)
                ways = [self._pass_on(passing, True, reader, back), self._pass_on(passing, False, there, writer)]
                pumps = [asyncio.ensure_future(way) for way in ways]
                try:
                    await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for pump in pumps:
                        pump.cancel()
                    await asyncio.gather(*pumps, return_exceptions=True)
                    back.close()
        finally:
            passing.ended = True
            writer.close()

    async def _pass_on(
        self, passing: Passing, outbound: bool, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                changed = self._change(passing, outbound, data)
                (passing.out if outbound else passing.back).extend(data)
                writer.write(changed)
                await writer.drain()
