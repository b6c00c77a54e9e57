"""Virtual time: things that happen later, in order."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import Any


class Entry:
    """Something that will happen, unless it is cancelled."""

    __slots__ = ("args", "call")

    def __init__(self, call: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.call: Callable[..., Any] | None = call
        self.args = args

    def cancel(self) -> None:
        """It does not happen; idempotent."""
        self.call, self.args = None, ()


class Scheduler:
    """``now`` is seconds since the world began; what is due at the same time happens in the order it was asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        self.steps = 0
        self._heap: list[tuple[float, int, Entry]] = []
        self._order = count()

    def after(self, seconds: float, call: Callable[..., Any], *args: Any) -> Entry:
        """``call(*args)`` in ``seconds``, never before what is being done now has ended."""
        entry = Entry(call, args)
        heapq.heappush(self._heap, (self.now + max(0.0, seconds), next(self._order), entry))
        return entry

    def run(self, until: float, done: Callable[[], bool] | None = None, *, every: int = 1) -> bool:
        """Let time pass up to ``until``; stops early, and returns True, once ``done()`` (asked ``every`` few steps)."""
        heap, pop = self._heap, heapq.heappop
        while heap and heap[0][0] <= until:
            self.now, _, entry = pop(heap)
            if entry.call is None:
                continue
            self.steps += 1
            entry.call(*entry.args)
            if done is not None and self.steps % every == 0 and done():
                return True
        self.now = max(self.now, until)
        return False
