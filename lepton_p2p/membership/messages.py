"""What SWIM peers say to each other: plain values, one-way, answered by other one-way messages.

Every message is delivered inside a :class:`Packet`, which adds the sender and the piggybacked gossip.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from lepton_p2p.identity import PeerInfo


class Status(IntEnum):
    """What a view believes of a peer; the order is the precedence at equal incarnation."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3


@dataclass(frozen=True, slots=True)
class Rumour:
    """One fact to gossip: ``peer`` is ``status`` at ``incarnation``, says ``origin`` (an id).

    Where claims are signed (see :class:`Notary`), ``word`` is the signature of ``peer`` over what it says of itself:
    that it is alive at this incarnation and address, or leaves; and ``accusation`` is what ``origin`` adds to that if
    it says suspect or dead.  Both travel with the fact for as long as it is told, so that everyone can check them.
    """

    peer: PeerInfo
    status: Status
    incarnation: int
    origin: str = ""
    word: bytes = b""
    accusation: bytes = b""


@dataclass(frozen=True, slots=True)
class Ping:
    """Are you there?  ``target`` is the id meant, so that a new process at an old address does not answer for it.

    An empty ``target`` means whoever is there.  ``sequence`` 0 asks for a sign of life that nobody waits for.
    """

    sequence: int
    target: str


@dataclass(frozen=True, slots=True)
class Ack:
    """I am here: answers :class:`Ping` (or is relayed for :class:`PingRequest`) with its ``sequence``."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Nack:
    """A relay's "still nothing from it" (Lifeguard): tells a slow prober from a dead target."""

    sequence: int


@dataclass(frozen=True, slots=True)
class PingRequest:
    """Please ping ``target`` for me and relay its ack under ``sequence``."""

    sequence: int
    target: PeerInfo


@dataclass(frozen=True, slots=True)
class Gossip:
    """Nothing but the piggyback."""


@dataclass(frozen=True, slots=True)
class Sync:
    """Full-state exchange (push/pull): everything I believe; ``reply`` asks for yours in return.

    The answer repeats ``sequence`` (0: none), so that a seed known by a host name is recognised although it
    advertises another address.
    """

    members: tuple[Rumour, ...]
    reply: bool
    sequence: int = 0


Body = Ping | Ack | Nack | PingRequest | Gossip | Sync


@dataclass(frozen=True, slots=True)
class Packet:
    """What travels: the sender (id and advertised address), one body, and piggybacked rumours."""

    sender: PeerInfo
    body: Body
    rumours: tuple[Rumour, ...] = field(default=())
