"""Who sends which bytes when in a ring all-reduce or all-gather, as a pure state machine.

Ring all-reduce is Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations" (2009):
every peer sends 2(N-1)/N of the bytes.  Segment ``s`` starts at rank ``s`` and goes right.  After N-1 reducing hops
its owner, rank ``s - 1``, holds the result; N-1 gathering hops carry it verbatim to everybody else.  An all-gather is
the same without reducing hops.  Chunks of a segment travel one by one, with no barrier anywhere.

The first chunk of each segment also carries *records* (opaque bytes, one per rank; see ``records.py``): while
reducing, those of the ranks passed so far, in path order; while gathering, all that its origin knew.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from lepton_p2p.rounds.layout import Chunk, Layout
from lepton_p2p.rounds.records import MAX_RECORD

_LENGTH = struct.Struct("!H")


class ProtocolViolation(ValueError):
    """The left neighbour sent what it cannot have to send, in one line; the attempt breaks."""


class Phase(IntEnum):
    """On which half of its way a chunk is."""

    REDUCE = 0
    GATHER = 1


class Operation(IntEnum):
    """What to do with a chunk that has arrived."""

    REDUCE = 0
    """Add the own input and send the partial sum on."""
    FINISH = 1
    """Add the own input: this is the result (divide if it is a mean); send it on as final."""
    STORE = 2
    """It is final: keep it, send it on verbatim if ``Step.forward`` says so."""


class Outgoing(NamedTuple):
    """Send ``chunk`` to the right in ``phase``; ``extra`` is the encoded records (empty unless it is the first)."""

    chunk: Chunk
    phase: Phase
    extra: bytes


class Step(NamedTuple):
    """What an announced chunk will mean once its payload is here.

    ``hop`` counts 1 to 2(N-1); ``opens``: this is the first chunk of its hop; ``forward``: the phase in which it is
    sent on, None if it ends here.
    """

    operation: Operation
    chunk: Chunk
    phase: Phase
    hop: int
    opens: bool
    forward: Phase | None


def encode_records(records: Sequence[bytes]) -> bytes:
    """Records as the ``extra`` of a frame: each behind its length in two bytes."""
    return b"".join(_LENGTH.pack(len(record)) + record for record in records)


def decode_records(extra: bytes, limit: int) -> list[bytes]:
    """What :func:`encode_records` wrote; :class:`ProtocolViolation` for anything else or more than ``limit``."""
    records: list[bytes] = []
    position = 0
    while position < len(extra):
        if len(records) == limit:
            raise ProtocolViolation(f"more than {limit} records in one chunk")
        if position + _LENGTH.size > len(extra):
            raise ProtocolViolation("records that end in the middle of a length")
        (length,) = _LENGTH.unpack_from(extra, position)
        position += _LENGTH.size
        if length > MAX_RECORD or position + length > len(extra):
            raise ProtocolViolation(f"a record that announces {length} bytes")
        records.append(extra[position : position + length])
        position += length
    return records


class RingProgress:
    """One member's part in one attempt.

    ``reduce_hops`` is ``world - 1`` (all-reduce) or 0 (all-gather).  :meth:`begin` once; then for every chunk from
    the left :meth:`announced` with what its header says and :meth:`completed` when its payload is there.
    """

    def __init__(self, world: int, rank: int, layout: Layout, reduce_hops: int, record: bytes) -> None:
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} is not in a world of {world}")
        if len(layout.segments) != world:
            raise ValueError(f"a layout of {len(layout.segments)} segments in a world of {world}")
        if reduce_hops not in (0, world - 1):
            raise ValueError(f"reduce_hops is 0 or {world - 1}, not {reduce_hops}")
        self.world, self.rank, self.layout, self.reduce_hops = world, rank, layout, reduce_hops
        self.records: dict[int, bytes] = {rank: record}
        self.done = False
        self._reduced = [bytearray(len(chunks)) for chunks in layout.segments]
        self._final = [bytearray(len(chunks)) for chunks in layout.segments]
        self._missing = 0

    def begin(self) -> list[Outgoing]:
        """What to send first: the chunks of the own segment.  A world of one is done with this."""
        own = self.layout.segments[self.rank]
        if self.world == 1:
            self.done = True
            return []
        gathered = sum(len(c) for s, c in enumerate(self.layout.segments) if self._origin(s) != self.rank)
        reduced = sum(len(c) for s, c in enumerate(self.layout.segments) if s != self.rank)
        self._missing = gathered + (reduced if self.reduce_hops else 0)
        phase = Phase.REDUCE if self.reduce_hops else Phase.GATHER
        extra = encode_records([self.records[self.rank]])
        return [Outgoing(chunk, phase, extra if chunk.index == 0 else b"") for chunk in own]

    def announced(self, phase: int, segment: int, index: int, nbytes: int, extra: bytes) -> Step:
        """Check a header and take in its records; :class:`ProtocolViolation` if it cannot be.

        Records are taken in before the sizes are compared, so that a caller can tell from them that the inputs
        differ in shape (:attr:`records` is updated even if this raises for the size).
        """
        if phase not in (Phase.REDUCE, Phase.GATHER) or segment >= self.world:
            raise ProtocolViolation(f"a chunk of segment {segment} in phase {phase} in a ring of {self.world}")
        distance = self._distance(Phase(phase), segment)
        if index == 0:
            self._take_records(Phase(phase), segment, distance, extra)
        elif extra:
            raise ProtocolViolation(f"records on chunk {index} of segment {segment}")
        if index >= len(self.layout.segments[segment]):
            raise ProtocolViolation(f"segment {segment} has no chunk {index}")
        chunk = self.layout.segments[segment][index]
        if nbytes != chunk.nbytes:
            raise ProtocolViolation(f"chunk {index} of segment {segment} has {chunk.nbytes} bytes, not {nbytes}")
        self._check_order(Phase(phase), segment, index)
        if phase == Phase.REDUCE:
            last = distance == self.reduce_hops
            operation = Operation.FINISH if last else Operation.REDUCE
            return Step(operation, chunk, Phase.REDUCE, distance, index == 0, Phase.GATHER if last else Phase.REDUCE)
        forward = Phase.GATHER if distance < self.world - 1 else None
        return Step(Operation.STORE, chunk, Phase.GATHER, self.reduce_hops + distance, index == 0, forward)

    def completed(self, step: Step) -> Outgoing | None:
        """The payload of ``step`` is there and the operation done: what to send on.  May set :attr:`done`."""
        chunk = step.chunk
        if step.phase is Phase.REDUCE:
            self._reduced[chunk.segment][chunk.index] = 1
        if step.operation is not Operation.REDUCE:
            self._final[chunk.segment][chunk.index] = 1
        self._missing -= 1
        self.done = self._missing == 0
        if step.forward is None:
            return None
        return Outgoing(chunk, step.forward, self._extra(step) if chunk.index == 0 else b"")

    def ordered_records(self) -> tuple[bytes, ...]:
        """The records known so far in ring order; all of them when :attr:`done`."""
        return tuple(self.records[rank] for rank in sorted(self.records))

    def _origin(self, segment: int) -> int:
        """The rank from which the final chunks of ``segment`` start."""
        return (segment + self.reduce_hops) % self.world

    def _distance(self, phase: Phase, segment: int) -> int:
        """Hops from where ``segment`` started in this phase to here: at least 1, or it cannot have come."""
        if phase is Phase.REDUCE and not self.reduce_hops:
            raise ProtocolViolation("a partial sum in an operation that only gathers")
        origin = segment if phase is Phase.REDUCE else self._origin(segment)
        distance = (self.rank - origin) % self.world
        if distance == 0:
            raise ProtocolViolation(f"segment {segment} came back to where it started in phase {phase.name}")
        return distance

    def _take_records(self, phase: Phase, segment: int, distance: int, extra: bytes) -> None:
        if phase is Phase.REDUCE:
            ranks = [(segment + hop) % self.world for hop in range(distance)]
        else:
            ranks = [(segment + hop) % self.world for hop in range(self.reduce_hops + 1)]
        records = decode_records(extra, len(ranks))
        if len(records) != len(ranks):
            raise ProtocolViolation(f"{len(records)} records on segment {segment} where {len(ranks)} belong")
        for rank, record in zip(ranks, records, strict=True):
            if self.records.setdefault(rank, record) != record:
                raise ProtocolViolation(f"two different records of rank {rank}")

    def _extra(self, step: Step) -> bytes:
        segment = step.chunk.segment
        hops = step.hop if step.operation is Operation.REDUCE else self.reduce_hops
        return encode_records([self.records[(segment + hop) % self.world] for hop in range(hops + 1)])

    def _check_order(self, phase: Phase, segment: int, index: int) -> None:
        """Chunks of a segment come in order, once, and final ones after the partial sum has passed here."""
        seen = self._reduced[segment] if phase is Phase.REDUCE else self._final[segment]
        if seen[index]:
            raise ProtocolViolation(f"chunk {index} of segment {segment} came twice in phase {phase.name}")
        if index and not seen[index - 1]:
            raise ProtocolViolation(f"chunk {index} of segment {segment} came before chunk {index - 1}")
        if phase is Phase.GATHER and self.reduce_hops and segment != self.rank and not self._reduced[segment][index]:
            raise ProtocolViolation(f"chunk {index} of segment {segment} is final before it passed here as a sum")
