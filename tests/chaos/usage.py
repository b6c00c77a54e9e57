"""Memory and descriptors of processes over time."""

from __future__ import annotations

import time
from typing import ClassVar

import psutil

from chaos.figures import slope

MIB = 1 << 20
HOUR = 3600.0


class Usage:
    """Samples of all processes; the first ``WARM`` seconds of each do not count for the slopes."""

    EVERY: ClassVar[float] = 2.0
    WARM: ClassVar[float] = 60.0
    ENOUGH: ClassVar[float] = 300.0
    """Seconds that one process must have been looked at for a slope to mean anything."""

    def __init__(self) -> None:
        self._rss: dict[str, list[tuple[float, float]]] = {}
        self._fds: dict[str, list[tuple[float, float]]] = {}
        self._born: dict[str, float] = {}

    def look(self, name: str, pid: int) -> None:
        """Sample one that may just have ended."""
        now = time.monotonic()
        if now < self._born.setdefault(name, now) + self.WARM:
            return
        try:
            process = psutil.Process(pid)
            rss, fds = process.memory_info().rss, process.num_fds()
        except psutil.Error:
            return
        self._rss.setdefault(name, []).append((now, rss / MIB))
        self._fds.setdefault(name, []).append((now, float(fds)))

    def figures(self) -> dict[str, float | int | None]:
        """Slopes by least squares over all samples, one level for each process; None for want of samples."""
        lives = [points[-1][0] - points[0][0] for points in self._rss.values()]
        enough = max(lives, default=0.0) >= self.ENOUGH
        rss, fds = (slope(kept.values()) if enough else None for kept in (self._rss, self._fds))
        return {
            "rss_mib_per_hour": None if rss is None else round(rss * HOUR, 2),
            "fds_per_hour": None if fds is None else round(fds * HOUR, 2),
            "samples": sum(map(len, self._rss.values())),
            "processes": len(lives),
            "longest_minutes": round(max(lives, default=0.0) / 60, 1),
            "rss_max_mib": round(max((value for points in self._rss.values() for _, value in points), default=0.0), 1),
            "fds_max": int(max((value for points in self._fds.values() for _, value in points), default=0)),
        }
