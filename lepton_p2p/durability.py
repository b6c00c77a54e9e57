"""How often a peer writes checkpoints, how many it keeps, and what it goes on from when it starts again."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from lepton_p2p.errors import ConfigError

USUAL_SECONDS = 60.0
"""What is lost at most if nothing was said: a minute costs one copy of the state per minute, and its bytes on disk."""
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_INTERVAL = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(s|m|h)|([0-9]{1,9})")


@dataclass(frozen=True, slots=True)
class Interval:
    """From one checkpoint to the next: optimizer ``steps``, or ``seconds``; exactly one of them is set."""

    steps: int | None = None
    seconds: float | None = None

    def __str__(self) -> str:
        return f"{self.steps} steps" if self.steps is not None else f"{self.seconds:g} s"

    @classmethod
    def parse(cls, text: str) -> Interval | None:
        """``100`` (steps), ``60s``, ``5m``, ``1h``; None for ``off``.  :class:`ConfigError` for anything else."""
        if text == "off":
            return None
        found = _INTERVAL.fullmatch(text)
        if found is not None:
            amount, unit, steps = found.groups()
            if steps is not None and int(steps) > 0:
                return cls(steps=int(steps))
            if amount is not None and float(amount) > 0:
                return cls(seconds=float(amount) * _UNITS[unit])
        raise ConfigError(f"write a number of steps (100), a time (60s, 5m, 1h) or off, not {text!r}")


@dataclass(frozen=True, slots=True)
class Durability:
    """every: None writes nothing.  keep: so many checkpoints stay.  resume: ``auto`` goes on from the newest valid
    checkpoint of the same job, ``never`` from the beginning, a path from that checkpoint and no other.
    """

    every: Interval | None = Interval(seconds=USUAL_SECONDS)
    keep: int = 3
    resume: str | Path = "auto"

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ConfigError(f"at least one checkpoint is kept, not {self.keep}")
        if isinstance(self.resume, str) and self.resume not in ("auto", "never"):
            raise ConfigError(f"resume is 'auto', 'never' or a pathlib.Path, not {self.resume!r}")
