"""Knobs of the agreement, each with its formula and its tradeoff, and the three presets."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

from lepton_p2p.errors import ConfigError

Partitions = Literal["continue", "majority"]
"""Policy of a swarm that the network splits (``docs/partitions.md``)."""
MOST_MEMBERS = 10_000
"""Of an epoch."""


@dataclass(frozen=True, slots=True)
class AgreementConfig:
    """Seconds, except where noted.

    promise_timeout: how long a proposer waits for a candidate that neither answers nor refuses the connection
        (a stopped process, a cut cable).  Lower finds it sooner, higher forgives a busy machine; a killed
        process is noticed at once whatever this says.
    install_timeout: how long a promise binds without an epoch following, before the bound peer proposes
        itself: ``promise_timeout`` plus the time for one message.
    stagger: the k-th member that notices a break waits ``k * stagger`` before it proposes, so that usually one
        proposal is made instead of several that compete.  A few round trips.
    seek_interval: how often a peer without an epoch asks somebody to admit it.
    announce_interval: how often the first member of an epoch tells live peers outside it about it; bounds how
        long split swarms that can talk stay split.
    max_attempts: attempts (count) after which a round that breaks again and again is rejected by agreement;
        high, since every join or death costs an attempt, but finite, since a sum that overflows in float32
        breaks for ever.
    founding_patience: how long a peer that was told whom to join, and was not answered by all of them, waits before
        it founds an epoch with others that have none either.  Lower: newcomers that see only each other start a
        training of their own sooner, beside one that is only slow to answer; higher: a swarm that comes back
        without some of those whom everybody joins stands still for so long.
    """

    promise_timeout: float = 2.0
    install_timeout: float = 3.0
    stagger: float = 0.05
    seek_interval: float = 0.5
    announce_interval: float = 1.0
    max_attempts: int = 16
    founding_patience: float = 10.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 < value < math.inf:
                raise ConfigError(f"agreement option {field.name} must be finite and above 0, not {value!r}")

    @classmethod
    def local(cls) -> AgreementConfig:
        """Processes on one machine: round trips far below a millisecond, but busy cores."""
        return cls(1.0, 1.5, 0.02, 0.2, 0.5)

    @classmethod
    def lan(cls) -> AgreementConfig:
        """One site: round trips of about a millisecond."""
        return cls()

    @classmethod
    def wan(cls) -> AgreementConfig:
        """Homes and continents: round trips of 20 to 300 ms, lossy."""
        return cls(6.0, 9.0, 0.4, 2.0, 5.0, founding_patience=30.0)
