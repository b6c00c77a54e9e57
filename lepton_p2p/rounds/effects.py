"""What the agreement asks of its driver beyond sending and timers, and the events it emits."""

from __future__ import annotations

from dataclasses import dataclass

from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.rounds.epoch import Epoch
from lepton_p2p.rounds.messages import Decision


@dataclass(frozen=True, slots=True)
class Halt:
    """Stop the running attempt now; it must neither complete nor break after this effect is performed."""


@dataclass(frozen=True, slots=True)
class Run:
    """Run ``round`` from the kept input on the ring of ``epoch``; ``attempt`` counts from 1."""

    epoch: Epoch
    round: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Recover:
    """Fetch the result of ``round`` from one of ``holders``, check it against ``digest``; the input is obsolete."""

    epoch: Epoch
    round: int
    digest: int
    holders: tuple[PeerInfo, ...]


@dataclass(frozen=True, slots=True)
class Accuse:
    """Tell membership that ``peer`` broke a round: suspicion starts at once instead of at the next probe."""

    peer: PeerId
    reason: str


@dataclass(frozen=True, slots=True)
class Installed:
    """This peer is in ``epoch`` now; ``decision`` says what it starts from."""

    epoch: Epoch
    decision: Decision


@dataclass(frozen=True, slots=True)
class Paused:
    """No rounds run in this epoch: ``present`` of the ``of`` peers that went on last are in it (policy majority)."""

    present: int
    of: int


@dataclass(frozen=True, slots=True)
class DroppedOut:
    """The swarm went on without this peer (or it yields to a larger one): what it holds is obsolete."""

    reason: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """The members agreed that ``round`` has no result."""

    round: int
    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A member would not admit this peer, for good: ``reason`` says why (another job, another file)."""

    by: PeerInfo
    reason: str
