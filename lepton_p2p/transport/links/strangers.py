"""What is logged about connections that are not ours: once, then at most one line per interval."""

from __future__ import annotations

from collections.abc import Callable

import structlog

_log = structlog.get_logger(__name__)
_INTERVAL = 10.0


class StrangerLog:
    """Turns rejected connections into at most one WARNING per ten seconds, with the number that it stands for."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.rejected = 0
        self._clock = clock
        self._unsaid = 0
        self._next = float("-inf")

    def reject(self, address: str, reason: str) -> None:
        """Count a connection from ``address`` that was closed because of ``reason``."""
        self.rejected += 1
        self._unsaid += 1
        now = self._clock()
        if now >= self._next:
            _log.warning(
                "closed a connection to the data port that is no peer's; check who can reach this port",
                address=address,
                reason=reason,
                connections=self._unsaid,
            )
            self._unsaid = 0
            self._next = now + _INTERVAL
