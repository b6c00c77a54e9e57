"""One proposal in flight: who was asked, who promised, who cannot be had and why."""

from __future__ import annotations

from dataclasses import dataclass, field

from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.rounds.epoch import Ballot
from lepton_p2p.rounds.messages import Report, Standing


@dataclass(slots=True)
class Proposal:
    """Mutable bookkeeping of the proposer; ``candidates`` includes the proposer itself."""

    ballot: Ballot
    candidates: dict[PeerId, PeerInfo]
    reason: str
    unites: bool = False
    reports: dict[PeerId, Report] = field(default_factory=dict)
    missing: dict[PeerId, str] = field(default_factory=dict)
    strangers: dict[PeerId, tuple[PeerInfo, Standing]] = field(default_factory=dict)
    reminded: bool = False
    """Whether those that had not answered were asked a second time."""

    def promised(self, report: Report) -> None:
        """A candidate promised; its earlier absence, if any, is forgiven."""
        if report.peer in self.candidates:
            self.reports[report.peer] = report
            self.missing.pop(report.peer, None)

    def unavailable(self, peer: PeerId, reason: str) -> None:
        """A candidate cannot be had; a promise that it already gave still counts."""
        if peer in self.candidates and peer not in self.reports:
            self.missing[peer] = reason

    @property
    def complete(self) -> bool:
        """Whether every candidate promised or cannot be had."""
        return len(self.reports) + len(self.missing) == len(self.candidates)

    @property
    def silent(self) -> tuple[PeerId, ...]:
        """Candidates that have not answered, and may still."""
        return tuple(peer for peer in self.candidates if peer not in self.reports and peer not in self.missing)

    def give_up_waiting(self, reason: str) -> None:
        """Count every candidate that has not answered as missing for ``reason``."""
        for peer in self.silent:
            self.unavailable(peer, reason)
