"""An epoch: an agreed, ordered list of members with a number."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

from lepton_p2p.identity import PeerId, PeerInfo

NOBODY = PeerId("")


@dataclass(frozen=True, slots=True, order=True)
class Ballot:
    """Totally ordered proposal number (Lamport): higher counters win, the proposer's id breaks ties."""

    counter: int = 0
    proposer: PeerId = NOBODY


@dataclass(frozen=True, slots=True, order=True)
class Member:
    """A peer in an epoch; ``since`` is the first round that it takes part in.

    Its state must be that after round ``since - 1``: a member for which ``since`` is the coming round is a
    newcomer that has yet to fetch it.
    """

    peer: PeerInfo
    since: int

    @property
    def id(self) -> PeerId:
        return self.peer.id


@dataclass(frozen=True)
class Epoch:
    """``members`` in ring order.  ``(number, ballot)`` is unique; ``tag`` is its 64-bit form for frame headers."""

    number: int
    ballot: Ballot
    members: tuple[Member, ...]

    @cached_property
    def ids(self) -> tuple[PeerId, ...]:
        return tuple(member.id for member in self.members)

    @cached_property
    def tag(self) -> int:
        text = f"{self.number}/{self.ballot.counter}/{self.ballot.proposer}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")

    def newcomers(self, round: int) -> tuple[Member, ...]:
        """The members whose first round is ``round``."""
        return tuple(member for member in self.members if member.since == round)

    def right_of(self, peer: PeerId) -> PeerId:
        """The next member on the ring: whom ``peer`` sends to."""
        ids = self.ids
        return ids[(ids.index(peer) + 1) % len(ids)]

    def left_of(self, peer: PeerId) -> PeerId:
        """The previous member on the ring: whom ``peer`` receives from."""
        ids = self.ids
        return ids[ids.index(peer) - 1]
