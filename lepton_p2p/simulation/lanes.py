"""Messages to one destination in order, as ``driver.lanes`` sends them: the next one when the one before has ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

CAPACITY = 64
"""Messages that may wait; beyond it the oldest is dropped, for the newest says more."""


class Lane:
    """deliver(message, ended): starts a delivery; ``ended()`` when it has arrived or failed."""

    def __init__(self, deliver: Callable[[Any, Callable[[], None]], None]) -> None:
        self._deliver = deliver
        self._waiting: deque[Any] = deque(maxlen=CAPACITY)
        self._busy = False

    @property
    def waiting(self) -> int:
        """Messages that have not left."""
        return len(self._waiting)

    def put(self, message: Any) -> None:
        """Send it when it is its turn."""
        self._waiting.append(message)
        if not self._busy:
            self._next()

    def _next(self) -> None:
        self._busy = bool(self._waiting)
        if self._busy:
            self._deliver(self._waiting.popleft(), self._next)
