"""Timers by key: setting one again replaces it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable


class Timers:
    """Calls ``fire(key, at)`` once, at or after time ``at`` on ``clock`` (seconds), unless replaced or cancelled."""

    def __init__(self, clock: Callable[[], float], fire: Callable[[Hashable, float], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._fire = fire
        self._handles: dict[Hashable, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        return len(self._handles)

    def set(self, key: Hashable, at: float) -> None:
        """Fire ``key`` at ``at``; a time that has passed means at once, but never from within this call."""
        self.cancel(key)
        delay = max(0.0, at - self._clock())
        self._handles[key] = self._loop.call_later(delay, self._due, key, at)

    def cancel(self, key: Hashable) -> None:
        """Forget ``key``; unknown keys are ignored."""
        handle = self._handles.pop(key, None)
        if handle is not None:
            handle.cancel()

    def clear(self) -> None:
        """Forget all."""
        for handle in self._handles.values():
            handle.cancel()
        self._handles.clear()

    def _due(self, key: Hashable, at: float) -> None:
        del self._handles[key]
        self._fire(key, at)
