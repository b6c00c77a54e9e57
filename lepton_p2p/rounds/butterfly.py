"""Who sends which bytes when in a butterfly all-reduce, as a pure state machine.

Every member *owns* one segment, that of its rank.  It gets everybody's contribution to it, from each directly, so that
it can compare them: in a ring of partial sums nobody sees a contribution but the neighbour.  What it makes of them
goes to everybody directly, verbatim.  Each member sends (N-1)/N of the bytes in each of the two legs, as in a ring
(``ring.py``), but over N-1 links, and an owner keeps N contributions until its segment is complete.  This is the
all-reduce of Gorbunov et al., "Secure distributed training at scale" (2022, arXiv 2106.11257), section 3.

The first chunk of a contribution carries its sender's record; the first chunk of a result all records as its owner got
them, and the owner's *judgement*: whose contributions it left out since they were not finite.  All owners must have
got the same records.  The judgements together say, on all members alike, who is refused.

A member has the result when it has all segments; each of them could only be made after every member had started.  That
is what rounds rely on (docs/architecture.md).
"""

from __future__ import annotations

from collections.abc import Collection
from enum import IntEnum
from typing import NamedTuple

from lepton_p2p.rounds.layout import Chunk, Layout
from lepton_p2p.rounds.ring import ProtocolViolation, WrongWay, decode_records, encode_records


class Leg(IntEnum):
    """On which half of its way a chunk is; numbers that no phase of a ring has, so that the two are never confused."""

    CONTRIBUTION = 2
    RESULT = 3


class Parcel(NamedTuple):
    """Send ``chunk`` to the member of rank ``to``; ``extra``: encoded records (empty unless it is the first)."""

    to: int
    chunk: Chunk
    leg: Leg
    extra: bytes


class Arrival(NamedTuple):
    """What an announced chunk will be once its payload is here; ``opens``: the first of its sender's in this leg."""

    sender: int
    chunk: Chunk
    leg: Leg
    opens: bool


class ButterflyProgress:
    """One member's part in one attempt.

    :meth:`begin` once; then for every chunk :meth:`announced` with what its header says and :meth:`completed` when its
    payload is there.  As soon as :attr:`gathered` holds, :meth:`aggregated` with the judgement on the own segment, once
    its result is in place.  ``layout`` has one segment for each of the ``world`` ranks.
    """

    def __init__(self, world: int, rank: int, layout: Layout, record: bytes) -> None:
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} is not in a world of {world}")
        if len(layout.segments) != world:
            raise ValueError(f"a layout of {len(layout.segments)} segments in a world of {world}")
        self.world, self.rank, self.layout = world, rank, layout
        self.records: dict[int, bytes] = {rank: record}
        self.judgements: dict[int, frozenset[int]] = {}
        others = [other for other in range(world) if other != rank]
        self._passed = {(leg, other): 0 for leg in Leg for other in others}
        """Chunks that have been dealt with, by leg and sender."""
        self._missing = {
            Leg.CONTRIBUTION: len(others) * len(layout.segments[rank]),
            Leg.RESULT: sum(len(layout.segments[other]) for other in others),
        }

    @property
    def gathered(self) -> bool:
        """Whether all contributions to the own segment are here."""
        return not self._missing[Leg.CONTRIBUTION]

    @property
    def done(self) -> bool:
        """Whether all segments are here."""
        return self.rank in self.judgements and not self._missing[Leg.RESULT]

    def owes(self, sender: int) -> bool:
        """Whether something is still to come from ``sender``."""
        return any(self._passed[leg, sender] < len(self._chunks(leg, sender)) for leg in Leg)

    def begin(self) -> list[Parcel]:
        """The own contributions to all other segments, those of the right neighbour first: so nobody is stampeded."""
        extra = encode_records([self.records[self.rank]])
        ranks = [(self.rank + step) % self.world for step in range(1, self.world)]
        return [
            Parcel(to, chunk, Leg.CONTRIBUTION, extra if chunk.index == 0 else b"")
            for to in ranks
            for chunk in self.layout.segments[to]
        ]

    def announced(self, sender: int, leg: int, segment: int, index: int, nbytes: int, extra: bytes) -> Arrival:
        """Check a header and take in its records.

        :class:`ProtocolViolation` if it cannot be, :class:`WrongWay` if it is of a ring.  Records are taken in before
        sizes are compared, so that a caller can tell from them that the inputs differ in shape.
        """
        if leg not in (Leg.CONTRIBUTION, Leg.RESULT):
            raise WrongWay("a partial sum came where contributions are aggregated one by one")
        leg = Leg(leg)
        owner = self.rank if leg is Leg.CONTRIBUTION else sender
        if segment != owner:
            raise ProtocolViolation(f"a {leg.name.lower()} of segment {segment}, which is not that of rank {owner}")
        if index == 0:
            self._take_extra(leg, sender, extra)
        elif extra:
            raise ProtocolViolation(f"records on chunk {index} of segment {segment}")
        chunks = self._chunks(leg, sender)
        if index >= len(chunks):
            raise ProtocolViolation(f"segment {segment} has no chunk {index}")
        chunk = chunks[index]
        if nbytes != chunk.nbytes:
            raise ProtocolViolation(f"chunk {index} of segment {segment} has {chunk.nbytes} bytes, not {nbytes}")
        passed = self._passed[leg, sender]
        if index != passed:
            what = "twice" if index < passed else f"before chunk {passed}"
            raise ProtocolViolation(f"chunk {index} of segment {segment} came {what} as a {leg.name.lower()}")
        return Arrival(sender, chunk, leg, index == 0)

    def completed(self, arrival: Arrival) -> None:
        """Its payload is there.  May set :attr:`gathered` and :attr:`done`."""
        self._passed[arrival.leg, arrival.sender] += 1
        self._missing[arrival.leg] -= 1

    def aggregated(self, refused: Collection[int]) -> list[Parcel]:
        """The result of the own segment is in place, made without the ranks ``refused``: send it to everybody.

        Chunk by chunk, so that nobody is last.  May set :attr:`done`.
        """
        if not self.gathered or self.rank in self.judgements:
            raise RuntimeError("a segment is aggregated once, when all contributions to it are there")
        self.judgements[self.rank] = frozenset(refused)
        extra = encode_records([*self.ordered_records(), _mask(refused, self.world)])
        ranks = [(self.rank + step) % self.world for step in range(1, self.world)]
        return [
            Parcel(to, chunk, Leg.RESULT, extra if chunk.index == 0 else b"")
            for chunk in self.layout.segments[self.rank]
            for to in ranks
        ]

    def ordered_records(self) -> tuple[bytes, ...]:
        """The records known so far in ring order; all of them when :attr:`gathered`."""
        return tuple(self.records[rank] for rank in sorted(self.records))

    def refused(self) -> frozenset[int]:
        """The ranks that some owner left out; final, and the same on all members, when :attr:`done`."""
        return frozenset().union(*self.judgements.values())

    def _chunks(self, leg: Leg, sender: int) -> tuple[Chunk, ...]:
        return self.layout.segments[self.rank if leg is Leg.CONTRIBUTION else sender]

    def _take_extra(self, leg: Leg, sender: int, extra: bytes) -> None:
        expected = 1 if leg is Leg.CONTRIBUTION else self.world + 1
        parts = decode_records(extra, expected)
        if len(parts) != expected:
            raise ProtocolViolation(f"{len(parts)} records with a {leg.name.lower()} where {expected} belong")
        if leg is Leg.RESULT:
            self.judgements[sender] = _ranks(parts.pop(), self.world)
        ranks = [sender] if leg is Leg.CONTRIBUTION else range(self.world)
        for rank, record in zip(ranks, parts, strict=True):
            if self.records.setdefault(rank, record) != record:
                raise ProtocolViolation(f"two different records of rank {rank}")


def _mask(ranks: Collection[int], world: int) -> bytes:
    """One bit for each rank, the lowest first."""
    return sum(1 << rank for rank in ranks).to_bytes(-(-world // 8), "little")


def _ranks(mask: bytes, world: int) -> frozenset[int]:
    bits = int.from_bytes(mask, "little")
    if len(mask) != -(-world // 8) or bits >> world:
        raise ProtocolViolation(f"a judgement of {len(mask)} bytes on {world} members")
    return frozenset(rank for rank in range(world) if bits >> rank & 1)
