"""What the demo promises, and whether it held."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import RenderableType
from rich.table import Table

LEAST_ACCURACY = 0.95
MOST_DIFFERENCE = 0.01
"""One point of accuracy between the swarm and one process on the same data."""


@dataclass(frozen=True, slots=True)
class Check:
    """A line of the last table; ``passed`` is None where there is nothing to pass."""

    name: str
    value: str
    passed: bool | None
    wanted: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was measured.  Accuracies are on the test set, 0 to 1; ``digests`` by survivor, hex.

    ``recovery_seconds``: from the kill to the first round (gossip: the first step of every survivor) after it.
    """

    strategy: str
    peers: int
    accuracy_swarm: float
    accuracy_alone: float
    rounds_done: int
    rounds_retried: int
    rounds_lost: int
    recovery_seconds: float
    digests: Mapping[str, str]
    seconds: float

    def checks(self) -> tuple[Check, ...]:
        """Every promise, with what came out."""
        digests = set(self.digests.values())
        same = len(digests) == 1 and "" not in digests and len(self.digests) == self.peers
        difference = abs(self.accuracy_swarm - self.accuracy_alone)
        return (
            Check(
                "accuracy, swarm",
                f"{self.accuracy_swarm:.2%}",
                self.accuracy_swarm >= LEAST_ACCURACY,
                f"at least {LEAST_ACCURACY:.0%}",
            ),
            Check(
                "accuracy, one process",
                f"{self.accuracy_alone:.2%}",
                # To the hundredth of a point that is shown: 0.97 - 0.96 is a little more than 0.01 in binary.
                round(difference, 4) <= MOST_DIFFERENCE,
                "within one point",
            ),
            Check("rounds done", str(self.rounds_done), self.rounds_done > 0, "more than 0"),
            Check("rounds retried", str(self.rounds_retried), None),
            Check("rounds lost", str(self.rounds_lost), self.rounds_lost == 0, "0"),
            Check("kill to next " + self._unit, f"{self.recovery_seconds:.2f} s", None),
            Check("digest of survivors", _digests(self.digests), same, f"the same on all {self.peers}"),
        )

    @property
    def _unit(self) -> str:
        return "finished round" if self.strategy == "all_reduce" else "step of all"

    @property
    def passed(self) -> bool:
        return all(check.passed is not False for check in self.checks())

    def to_dict(self) -> dict[str, Any]:
        """As ``lepton-peer demo --json`` prints it."""
        failed = [check.name for check in self.checks() if check.passed is False]
        return {**asdict(self), "digests": dict(self.digests), "passed": self.passed, "failed": failed}

    def table(self) -> RenderableType:
        """As people see it."""
        table = Table(
            title=f"{self.strategy}, {self.seconds:.0f} seconds, accuracy on the test set", title_justify="left"
        )
        for column in ("", "measured", "promised", ""):
            table.add_column(column, overflow="fold")
        for check in self.checks():
            mark = {True: "[green]ok[/]", False: "[red]NOT MET[/]", None: ""}[check.passed]
            table.add_row(check.name, check.value, check.wanted, mark)
        return table


def _digests(digests: Mapping[str, str]) -> str:
    """One line if all are equal, else one for each."""
    if len(set(digests.values())) == 1:
        return next(iter(digests.values())) or "none"
    return "\n".join(f"{peer}: {digest or 'none'}" for peer, digest in digests.items())
