"""How much a remote may send that helps nobody."""

from __future__ import annotations


class Allowance:
    """At most ``burst`` at once and ``rate`` a second in the long run (a token bucket; the clock is the caller's)."""

    def __init__(self, burst: int, rate: float) -> None:
        self._burst, self._rate = burst, rate
        self._left = float(burst)
        self._then: float | None = None

    def spend(self, now: float) -> bool:
        """Take one; False if there is none left."""
        if self._then is not None:
            self._left = min(self._left + (now - self._then) * self._rate, self._burst)
        self._then = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
