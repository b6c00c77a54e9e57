"""How a peer's rounds went, counted since it started."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class RoundCounters:
    """done: rounds decided with a result.  retried: attempts after the first.  lost: rounds decided without a result.

    last_recovery_seconds: from the last break to the next round that was done; None before the first.
    """

    done: int = 0
    retried: int = 0
    lost: int = 0
    last_recovery_seconds: float | None = None
    _broke_at: float | None = None

    def broke(self, now: float) -> None:
        """An attempt broke at ``now`` (seconds)."""
        if self._broke_at is None:
            self._broke_at = now

    def decided(self, now: float) -> None:
        """A round has a result."""
        self.done += 1
        if self._broke_at is not None:
            self.last_recovery_seconds = now - self._broke_at
            self._broke_at = None
