"""What a round returns: everything that happened in it, nothing silent."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType

from lepton_p2p.identity import PeerId


@dataclass(frozen=True, slots=True)
class Lost:
    """A member that the round went on without, and why (one readable line)."""

    peer: PeerId
    reason: str


@dataclass(frozen=True, slots=True)
class RoundResult:
    """The outcome of one collective round, the same on every member but for the local measurements.

    epoch: number of the epoch that decided the round.  round: its number in the lineage.  attempts: how often
    the ring ran (1: nothing went wrong).  members: all of the deciding attempt, in ring order.  contributors:
    those whose tensors are in the result (finite, weight above 0).  refused: members whose tensors held NaN
    or Inf and counted with weight 0 (with an aggregation, also those that did not say so and were left out where it
    was seen).  newcomers: members for which this was the first round.  lost: who was
    left behind during the round.  total_weight: sum of the contributors' weights.  trimmed: with an aggregation that
    trims, how many of the smallest and of the largest values of every element were left out; less than was asked for
    if there were too few contributors (see ``Aggregation``).  digest: 64-bit hash of the
    result's bytes, equal on all members.  notes: each member's note (see ``records``).
    bytes_sent, bytes_received: payload bytes of this peer's links, all attempts; 0 if all members worked in one
    memory.  seconds_wait: until the first byte came from the left neighbour; seconds_wire: from there to the result;
    seconds_compute: packing, reducing, hashing.
    """

    epoch: int
    round: int
    attempts: int
    members: tuple[PeerId, ...]
    contributors: tuple[PeerId, ...]
    refused: tuple[PeerId, ...]
    newcomers: tuple[PeerId, ...]
    lost: tuple[Lost, ...]
    total_weight: float
    digest: int
    notes: MappingProxyType[PeerId, bytes] = field(default_factory=lambda: MappingProxyType({}))
    recovered: bool = False
    trimmed: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    seconds_wait: float = 0.0
    seconds_wire: float = 0.0
    seconds_compute: float = 0.0
