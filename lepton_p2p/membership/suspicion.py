"""How long a suspect has to refute: the shorter, the more peers suspect it independently."""

from __future__ import annotations

import math

from lepton_p2p.membership.config import SwimConfig


class Suspicion:
    """One suspicion of one member at one incarnation (Lifeguard, arXiv 1707.00788, section IV-B).

    ``started``: seconds.  ``origin``: id of the first accuser; ``reason``: why, in words.  ``members``: live
    members when it began, from which the least and the longest time-out follow (see :class:`SwimConfig`).
    """

    def __init__(self, config: SwimConfig, members: int, started: float, origin: str, reason: str) -> None:
        self.reason = reason
        self.started = started
        self.origins = [origin]
        self.minimum = config.suspicion_multiplier * max(1.0, math.log10(max(1, members))) * config.probe_interval
        wanted = max(0, config.suspicion_multiplier - 2)
        # Neither the suspect nor the first accuser can confirm: with too few others nobody would be heard.
        self._wanted = wanted if members - 2 >= wanted else 0
        self.maximum = self.minimum * config.suspicion_max_multiplier if self._wanted else self.minimum

    @property
    def confirmations(self) -> int:
        """Accusers besides the first."""
        return len(self.origins) - 1

    @property
    def timeout(self) -> float:
        """Seconds from ``started``: max - ln(c + 1)/ln(k + 1)·(max - min)."""
        if not self._wanted:
            return self.minimum
        share = math.log(self.confirmations + 1) / math.log(self._wanted + 1)
        return max(self.minimum, self.maximum - share * (self.maximum - self.minimum))

    @property
    def deadline(self) -> float:
        """When the suspect is declared dead unless it refutes."""
        return self.started + self.timeout

    def confirm(self, origin: str) -> bool:
        """Count ``origin`` as an independent accuser; whether that was news (and shortened the time-out)."""
        if self.confirmations >= self._wanted or origin in self.origins:
            return False
        self.origins.append(origin)
        return True

    def postpone(self, seconds: float) -> None:
        """The watcher itself stood still for ``seconds``: they do not count against the suspect."""
        self.started += seconds
