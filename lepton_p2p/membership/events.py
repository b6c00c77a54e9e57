"""What SWIM tells the room above, and the effects that it asks for."""

from __future__ import annotations

from dataclasses import dataclass

from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.membership.messages import Packet
from lepton_p2p.sansio import CancelTimer, Emit, Send, SetTimer


@dataclass(frozen=True, slots=True)
class Joined:
    """``peer`` is alive: new, or back after it was declared dead."""

    peer: PeerInfo


@dataclass(frozen=True, slots=True)
class Suspected:
    """``peer`` may be dead, says ``by`` ("" if unknown), because of ``reason``; it has time to refute."""

    peer: PeerInfo
    by: PeerId
    reason: str


@dataclass(frozen=True, slots=True)
class Trusted:
    """``peer`` refuted a suspicion."""

    peer: PeerInfo


@dataclass(frozen=True, slots=True)
class Died:
    """``peer`` is believed dead; it may still come back (:class:`Joined`) if it was only unreachable."""

    peer: PeerInfo
    reason: str


@dataclass(frozen=True, slots=True)
class Left:
    """``peer`` said goodbye; its id never comes back."""

    peer: PeerInfo


@dataclass(frozen=True, slots=True)
class SeedSilent:
    """Nobody answers at the seed ``address``; said once until it answers, while it is retried for ever."""

    address: str


@dataclass(frozen=True, slots=True)
class SeedAnswered:
    """A live member answers at the seed ``address``, for the first time or after :class:`SeedSilent`."""

    address: str


@dataclass(frozen=True, slots=True)
class DeclaredDead:
    """Others believed this peer dead (it was stalled or cut off); it refuted."""


@dataclass(frozen=True, slots=True)
class Refused:
    """``sender`` told a claim that was dropped; ``said``: which, in words.

    ``forged``: a signature is wrong, so that the sender lies; otherwise the signer is nobody (any more).
    """

    sender: PeerInfo
    said: str
    forged: bool


SwimEvent = Joined | Suspected | Trusted | Died | Left | SeedSilent | SeedAnswered | DeclaredDead | Refused
Effect = Send[Packet] | SetTimer | CancelTimer | Emit[SwimEvent]
