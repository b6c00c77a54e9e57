"""Lifeguard's local health: a peer that is itself slow should doubt itself before it accuses others."""

from __future__ import annotations


class Awareness:
    """A score from 0 (healthy) to ``limit - 1``; time-outs are multiplied by ``score + 1``.

    A probe that is answered lowers it; an unanswered one, missing nacks, having to refute, and late timers
    raise it (Lifeguard, arXiv 1707.00788, section IV-A).
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._score = 0

    @property
    def score(self) -> int:
        return self._score

    def add(self, delta: int) -> None:
        """Raise (or with a negative ``delta`` lower) the score, within its bounds."""
        self._score = min(max(self._score + delta, 0), self._limit - 1)

    def scale(self, seconds: float) -> float:
        """``seconds`` as this peer should wait in its present health."""
        return seconds * (self._score + 1)
