"""Being told to stop: the first SIGTERM or Ctrl+C leaves the swarm in good order, the second ends the process at once.

Leaving has a limit.  A watchdog thread, not the loop, keeps it: whatever hangs (a kernel that computes, a peer that
does not answer), the process is gone in time, and the swarm then notices by itself.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, TypeVar

from lepton_p2p.cli.exit_codes import INTERRUPTED

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM)
LEAVE_LIMIT = 2.8
"""Seconds from the first signal to the end of the process, whatever happens (the promise is three)."""


class Stopped(Exception):
    """What :meth:`StopSignal.unless` raises when the signal came before the result."""


class StopSignal:
    """Context manager (inside a running loop) that turns SIGINT and SIGTERM into an orderly stop.

    ``on_first`` is called in the loop at the first signal.  ``exit`` ends the process without clean-up
    (``os._exit``; tests hand in their own).
    """

    def __init__(
        self,
        on_first: Callable[[], None] = lambda: None,
        *,
        limit: float = LEAVE_LIMIT,
        exit: Callable[[int], object] = os._exit,
    ) -> None:
        self._on_first = on_first
        self._exit = exit
        self._stop = asyncio.Event()
        self._watchdog = threading.Timer(limit, self._give_up)
        self._watchdog.daemon = True

    def __enter__(self) -> StopSignal:
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self.signalled)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # After a signal the watchdog and the handlers stay: closing the loop and joining threads is part of stopping.
        if not self._stop.is_set():
            self.disarm()

    def disarm(self) -> None:
        """Stop listening to signals, and call off the end of the process if one has come."""
        self._watchdog.cancel()
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.remove_signal_handler(number)

    @property
    def is_set(self) -> bool:
        return self._stop.is_set()

    def signalled(self) -> None:
        """What a signal does."""
        if self._stop.is_set():
            self._say("stopped at once; the swarm will notice by itself")
            self._exit(INTERRUPTED)
            return
        self._stop.set()
        self._watchdog.start()
        self._on_first()

    async def wait(self) -> None:
        """Until the first signal."""
        await self._stop.wait()

    async def unless(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of ``work``; if the signal comes first, ``work`` is cancelled and awaited: :class:`Stopped`."""
        if self._stop.is_set():
            work.close()
            raise Stopped
        task = asyncio.create_task(work)
        waiter = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait((task, waiter), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise Stopped
        finally:
            for each in (task, waiter):
                each.cancel()
            await asyncio.wait((task, waiter))

    def _give_up(self) -> None:
        self._say("could not finish in time what was under way; the swarm will notice by itself")
        self._exit(0)

    @staticmethod
    def _say(text: str) -> None:
        print(f"lepton-peer: {text}", file=sys.stderr, flush=True)
