"""How often something may happen: a token bucket."""

from __future__ import annotations


class TokenBucket:
    """``burst`` times at once, and ``rate`` times a second after that; ``now`` is monotonic seconds."""

    def __init__(self, burst: float, rate: float) -> None:
        self._burst = burst
        self._rate = rate
        self._left = burst
        self._at: float | None = None

    def take(self, now: float) -> bool:
        """Whether it may happen now, which is counted."""
        if self._at is not None:
            self._left = min(self._burst, self._left + max(0.0, now - self._at) * self._rate)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
