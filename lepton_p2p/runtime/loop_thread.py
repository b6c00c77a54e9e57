"""An event loop in a thread of its own, for programs that have none, or have one that is none of our business."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Generic, TypeVar

import uvloop

from lepton_p2p.errors import Closed
from lepton_p2p.runtime.interrupts import Interrupts
from lepton_p2p.training.collective import Withdrawn

T = TypeVar("T")
_LOOK = 0.2
"""A signal that comes in the instant before the main thread begins to wait is noticed by Python only after the wait, so
the main thread waits for no longer than this at a time (seconds); a result still wakes it at once."""


class LoopThread:
    """``start()``, then ``call()`` from any other thread, ``stop()`` at the end; it may be started again.

    There is one loop for as long as the process lives, since gRPC stays bound to the first that it ran on.
    """

    def __init__(self) -> None:
        self.interrupts = Interrupts()
        self.loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        self._thread: threading.Thread | None = None
        self._helpers: ThreadPoolExecutor | None = None
        self._process = os.getpid()

    @property
    def forked(self) -> bool:
        """Whether this is a child of the process that made it: the thread was not copied, and the loop is of no use."""
        return os.getpid() != self._process

    @property
    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Run the loop; nothing if it runs."""
        if not self.running:
            self._helpers = ThreadPoolExecutor(thread_name_prefix="lepton")
            self.loop.set_default_executor(self._helpers)
            self._thread = threading.Thread(target=self._run, name="lepton", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Cancel what is left on the loop, wait for it, end the thread and those that worked for it."""
        thread = self._thread
        if thread is None or not thread.is_alive():
            return
        try:
            asyncio.run_coroutine_threadsafe(_cancel_the_rest(), self.loop).result()
            self.loop.call_soon_threadsafe(self.loop.stop)
            thread.join()
            self._thread = None
        finally:
            if self._helpers is not None:
                self._helpers.shutdown(cancel_futures=True)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def call(self, work: Coroutine[Any, Any, T], *, give_up: Callable[[], object] | None = None) -> T:
        """Run ``work`` on the loop and wait for its end, however it ends.

        SIGINT in the main thread calls ``give_up`` on the loop (by default it cancels ``work``), and is raised when
        ``work`` has ended; if that was by cancellation, inside of a guard, :class:`Withdrawn` comes first.  Raises
        :class:`Closed` if ``work`` was cancelled by anything else, or cannot run any more.
        """
        if not self.running:
            work.close()
            raise Closed("the swarm is closed")
        with self.interrupts.guard() as guard:
            mine = guard is self.interrupts
            call = _Call(work, self.loop)
            if mine:
                self.interrupts.give_up = lambda: self.loop.call_soon_threadsafe(give_up or call.cancel)
            try:
                # In this order: a signal before the line above called nobody, one after it finds the call.
                if mine and self.interrupts.giving_up:
                    work.close()
                    raise Withdrawn
                self.loop.call_soon_threadsafe(call.begin)
                while mine and not wait((call.outcome,), timeout=_LOOK).done:
                    pass
                return call.outcome.result()
            except _WasCancelled:
                raise (Withdrawn() if mine and self.interrupts.giving_up else Closed("the swarm is closed")) from None
            finally:
                if mine:
                    self.interrupts.give_up = None


class _WasCancelled(Exception):
    pass


class _Call(Generic[T]):
    """A coroutine that a thread waits for; ``outcome`` is set when its task has really ended."""

    def __init__(self, work: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> None:
        self.outcome: Future[T] = Future()
        self._work, self._loop = work, loop
        self._task: asyncio.Task[T] | None = None
        self._unwanted = False

    def begin(self) -> None:
        if self._unwanted:
            self._work.close()
            self.outcome.set_exception(_WasCancelled())
            return
        self._task = self._loop.create_task(self._work)
        self._task.add_done_callback(self._deliver)

    def cancel(self) -> None:
        self._unwanted = True
        if self._task is not None:
            self._task.cancel()

    def _deliver(self, task: asyncio.Task[T]) -> None:
        if task.cancelled():
            self.outcome.set_exception(_WasCancelled())
        elif (error := task.exception()) is not None:
            self.outcome.set_exception(error)
        else:
            self.outcome.set_result(task.result())


async def _cancel_the_rest() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
