"""How long to wait for a neighbour, derived from what was observed of it.

The estimator is that of TCP's retransmission timer (RFC 6298): an exponentially weighted mean with gain 1/8 and a
mean deviation with gain 1/4, of the gaps between arrivals and of the seconds that a byte takes.
"""

from __future__ import annotations

from dataclasses import dataclass

_MEAN_GAIN = 1 / 8
_DEVIATION_GAIN = 1 / 4
_MEASURABLE = 64 << 10
"""Fewer bytes than this are one segment burst and say nothing about throughput."""


@dataclass(frozen=True, slots=True)
class PatienceConfig:
    """Knobs of failure detection on a ring link.

    heartbeat: seconds of idleness after which a sender says that it is alive.  Cost: 72 bytes each; detection of
    a silent peer is never faster than four of them.
    floor: lower bound of the silence that breaks an attempt, seconds.  Lower finds stalled peers sooner and takes
    more hiccups (a garbage collection, a busy machine) for deaths; a wrong verdict costs a retry, not data.
    ceiling: upper bound of the same, seconds: however irregular a link, nobody waits longer for a sign of life.
    connect: seconds for the left neighbour's link to appear at the start of an epoch.
    deviations: how many mean deviations above the mean gap are still normal; TCP uses 4 and retransmits, here a
    wrong verdict is dearer.
    slack: a chunk that has begun may take so many times the expected time on top of the silence.
    """

    heartbeat: float = 0.25
    floor: float = 1.5
    ceiling: float = 10.0
    connect: float = 5.0
    deviations: float = 8.0
    slack: float = 4.0

    def __post_init__(self) -> None:
        if not 0 < self.heartbeat <= self.floor <= self.ceiling:
            raise ValueError(
                f"patience needs 0 < heartbeat <= floor <= ceiling, got {self.heartbeat}, {self.floor}, {self.ceiling}"
            )
        if self.connect <= 0 or self.deviations <= 0 or self.slack <= 0:
            raise ValueError("patience needs positive connect, deviations and slack")

    @classmethod
    def local(cls) -> PatienceConfig:
        """One machine: scheduling is the only noise."""
        return cls(heartbeat=0.1, floor=0.75, ceiling=5.0, connect=3.0)

    @classmethod
    def lan(cls) -> PatienceConfig:
        """One site: sub-millisecond round trips, several machines with their own hiccups."""
        return cls(heartbeat=0.25, floor=1.5, ceiling=10.0, connect=5.0)

    @classmethod
    def wan(cls) -> PatienceConfig:
        """The open Internet: a lost segment can cost several retransmission time-outs (RFC 6298: 1 s, doubling)."""
        return cls(heartbeat=1.0, floor=5.0, ceiling=60.0, connect=15.0)


class _Estimate:
    """Mean and mean deviation as in RFC 6298, section 2."""

    __slots__ = ("deviation", "mean", "samples")

    def __init__(self) -> None:
        self.mean = 0.0
        self.deviation = 0.0
        self.samples = 0

    def add(self, value: float) -> None:
        if not self.samples:
            self.mean, self.deviation = value, value / 2
        else:
            self.deviation += _DEVIATION_GAIN * (abs(value - self.mean) - self.deviation)
            self.mean += _MEAN_GAIN * (value - self.mean)
        self.samples += 1


class Patience:
    """What is known of one neighbour's pace, and the deadlines that follow.  Times are seconds, sizes bytes."""

    def __init__(self, config: PatienceConfig) -> None:
        self.config = config
        self._gap = _Estimate()
        self._second_per_byte = _Estimate()

    def arrived(self, gap: float) -> None:
        """Something came from the neighbour, ``gap`` seconds after the last thing (heartbeats are things)."""
        self._gap.add(max(0.0, gap))

    def transferred(self, nbytes: int, seconds: float) -> None:
        """A payload took ``seconds`` from its header to its last byte."""
        if nbytes >= _MEASURABLE:
            self._second_per_byte.add(max(0.0, seconds) / nbytes)

    @property
    def throughput(self) -> float | None:
        """Smoothed bytes per second of payloads under way; None before the first measurable one."""
        estimate = self._second_per_byte
        return 1.0 / max(estimate.mean, 1e-12) if estimate.samples else None

    def silence(self) -> float:
        """Seconds without any byte after which the neighbour counts as gone.

        ``clamp(max(4 * heartbeat, mean + deviations * deviation), floor, ceiling)``.
        """
        config = self.config
        usual = self._gap.mean + config.deviations * self._gap.deviation
        return min(max(4 * config.heartbeat, usual, config.floor), config.ceiling)

    def chunk(self, nbytes: int) -> float:
        """Seconds that a payload of ``nbytes`` may take once its header is here, even if bytes keep trickling in.

        ``silence + slack * nbytes / throughput``, with the throughput lowered by four mean deviations of the time per
        byte; before anything was measured ``silence + ceiling``.
        """
        estimate = self._second_per_byte
        if not estimate.samples:
            return self.silence() + self.config.ceiling
        return self.silence() + self.config.slack * nbytes * (estimate.mean + 4 * estimate.deviation)
