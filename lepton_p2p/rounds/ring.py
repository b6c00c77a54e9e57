"""Who sends which bytes when in a ring all-reduce or all-gather, as a pure state machine.

Ring all-reduce is Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations" (2009):
every peer sends 2(N-1)/N of the bytes.  Segment ``s`` starts at rank ``s`` and goes right.  After N-1 reducing hops
its owner, rank ``s - 1``, holds the result; N-1 gathering hops carry it verbatim to everybody else.  An all-gather is
the same without reducing hops.  Chunks of a segment travel one by one, with no barrier anywhere.

The first chunk of each segment also carries *records* (opaque bytes, one per rank; see ``records.py``): while
reducing, those of the ranks passed so far, in path order; while gathering, all that its origin knew.

Where all members see the same memory nothing has to be carried, and what is final can be told of several chunks at
once: a gathering announcement then stands for all chunks of its *stride* (see :class:`RingProgress`).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from lepton_p2p.rounds.inspection import DIFFER
from lepton_p2p.rounds.layout import Chunk, Layout
from lepton_p2p.rounds.records import MAX_RECORD

_LENGTH = struct.Struct("!H")
_LEGS = (2, 3)
"""Those of a butterfly (``butterfly.Leg``), in the place of a phase."""


class ProtocolViolation(ValueError):
    """The left neighbour sent what it cannot have to send, in one line; the attempt breaks."""


class WrongWay(ValueError):
    """A chunk of a member that aggregates in another way, on a ring (this file) or not (``butterfly.py``)."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{DIFFER}: {what}")


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

    ``first``: index of the first chunk of the segment that is meant; ``chunk`` is the last.  ``hop`` counts 1 to
    2(N-1); ``opens``: this is the first chunk of its hop; ``forward``: the phase in which it is sent on, None if it
    ends here.
    """

    operation: Operation
    first: int
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
    position, end = 0, len(extra)
    while position < end:
        if len(records) == limit:
            raise ProtocolViolation(f"more than {limit} records in one chunk")
        start = position + _LENGTH.size
        if start > end:
            raise ProtocolViolation("records that end in the middle of a length")
        (length,) = _LENGTH.unpack_from(extra, position)
        position = start + length
        if length > MAX_RECORD or position > end:
            raise ProtocolViolation(f"a record that announces {length} bytes")
        records.append(extra[start:position])
    return records


class _Lane:
    """The chunks of one segment in one phase as they pass here, one after the other."""

    __slots__ = ("chunks", "forward", "hop", "operation", "passed", "phase", "ranks", "stride")

    def __init__(
        self, segment: int, phase: Phase, distance: int, world: int, chunks: tuple[Chunk, ...], hops: int, stride: int
    ):
        gather = phase is Phase.GATHER
        last = distance == (world - 1 if gather else hops)
        self.chunks = chunks
        self.phase = phase
        self.hop = distance + (hops if gather else 0)
        self.operation = Operation.STORE if gather else Operation.FINISH if last else Operation.REDUCE
        self.forward = (None if last else Phase.GATHER) if gather else Phase.GATHER if last else Phase.REDUCE
        # Whose records its first chunk brings, in path order.
        self.ranks = [(segment + hop) % world for hop in range(hops + 1 if gather else distance)]
        self.stride = stride if gather else 1
        self.passed = 0
        """Chunks that have been dealt with."""

    @property
    def next(self) -> int:
        """Index of the chunk that comes next: the last of its stride."""
        return min(self.passed + self.stride, len(self.chunks)) - 1


class RingProgress:
    """One member's part in one attempt.

    ``reduce_hops`` is ``world - 1`` (all-reduce) or 0 (all-gather).  :meth:`begin` once; then for every chunk from
    the left :meth:`announced` with what its header says and :meth:`completed` when its payload is there.

    ``stride``: how many chunks of a segment one gathering announcement stands for; it names the last of them.  More
    than 1 only in memory that all members see, and with ``reduce_hops``; the same on all members.
    """

    def __init__(
        self, world: int, rank: int, layout: Layout, reduce_hops: int, record: bytes, *, stride: int = 1
    ) -> None:
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} is not in a world of {world}")
        if len(layout.segments) != world:
            raise ValueError(f"a layout of {len(layout.segments)} segments in a world of {world}")
        if reduce_hops not in (0, world - 1):
            raise ValueError(f"reduce_hops is 0 or {world - 1}, not {reduce_hops}")
        if stride < 1 or (stride > 1 and not reduce_hops):
            raise ValueError(f"a stride is at least 1, and 1 without reducing hops, not {stride}")
        self.world, self.rank, self.layout, self.reduce_hops = world, rank, layout, reduce_hops
        self._stride = stride
        self.records: dict[int, bytes] = {rank: record}
        self.done = False
        self._reducing = [self._lane(Phase.REDUCE, segment) for segment in range(world)]
        self._gathering = [self._lane(Phase.GATHER, segment) for segment in range(world)]
        lanes = [lane for lane in self._reducing + self._gathering if lane is not None]
        self._missing = sum(len(lane.chunks) for lane in lanes)

    def _lane(self, phase: Phase, segment: int) -> _Lane | None:
        """None: chunks of the segment do not come here in this phase."""
        origin = segment if phase is Phase.REDUCE else (segment + self.reduce_hops) % self.world
        distance = (self.rank - origin) % self.world
        if not distance or (phase is Phase.REDUCE and not self.reduce_hops):
            return None
        chunks = self.layout.segments[segment]
        return _Lane(segment, phase, distance, self.world, chunks, self.reduce_hops, self._stride)

    def begin(self) -> list[Outgoing]:
        """What to send first: the chunks of the own segment.  A world of one is done with this."""
        if self.world == 1:
            self.done = True
            return []
        phase = Phase.REDUCE if self.reduce_hops else Phase.GATHER
        extra = encode_records([self.records[self.rank]])
        own = self.layout.segments[self.rank]
        return [Outgoing(chunk, phase, extra if chunk.index == 0 else b"") for chunk in own]

    def announced(self, phase: int, segment: int, index: int, nbytes: int | None, extra: bytes) -> Step:
        """Check a header and take in its records; :class:`ProtocolViolation` if it cannot be, or :class:`WrongWay`.

        ``nbytes``: size of the payload; None if it does not travel.  Records are taken in before the sizes are
        compared, so that a caller can tell from them that the inputs differ in shape (:attr:`records` is updated even
        if this raises for the size).
        """
        if phase not in (Phase.REDUCE, Phase.GATHER) or segment >= self.world:
            if phase in _LEGS:
                raise WrongWay("a contribution came where partial sums are passed on")
            raise ProtocolViolation(f"a chunk of segment {segment} in phase {phase} in a ring of {self.world}")
        lane = self._gathering[segment] if phase else self._reducing[segment]
        if lane is None:
            if phase == Phase.REDUCE and not self.reduce_hops:
                raise ProtocolViolation("a partial sum in an operation that only gathers")
            raise ProtocolViolation(f"segment {segment} came back to where it started in phase {Phase(phase).name}")
        if index == min(lane.stride, len(lane.chunks)) - 1:
            self._take_records(lane, segment, extra)
        elif extra:
            raise ProtocolViolation(f"records on chunk {index} of segment {segment}")
        if index >= len(lane.chunks):
            raise ProtocolViolation(f"segment {segment} has no chunk {index}")
        chunk = lane.chunks[index]
        if nbytes is not None and nbytes != chunk.nbytes:
            raise ProtocolViolation(f"chunk {index} of segment {segment} has {chunk.nbytes} bytes, not {nbytes}")
        if index != lane.next:
            what = "twice" if index < lane.passed else f"before chunk {lane.next}"
            raise ProtocolViolation(f"chunk {index} of segment {segment} came {what} in phase {lane.phase.name}")
        reducing = self._reducing[segment]
        if phase and reducing is not None and index >= reducing.passed:
            raise ProtocolViolation(f"chunk {index} of segment {segment} is final before it passed here as a sum")
        return Step(lane.operation, lane.passed, chunk, lane.phase, lane.hop, not lane.passed, lane.forward)

    def completed(self, step: Step) -> Outgoing | None:
        """The payload of ``step`` is there and the operation done: what to send on.  May set :attr:`done`."""
        chunk = step.chunk
        lane = self._gathering[chunk.segment] if step.phase else self._reducing[chunk.segment]
        assert lane is not None
        lane.passed = chunk.index + 1
        self._missing -= lane.passed - step.first
        self.done = self._missing == 0
        if step.forward is None:
            return None
        opens = step.opens
        if step.operation is Operation.FINISH:
            if lane.passed % self._stride and lane.passed < len(lane.chunks):
                return None  # to be told with those that follow
            opens = lane.passed <= self._stride
        return Outgoing(chunk, step.forward, self._extra(step, lane) if opens else b"")

    def ordered_records(self) -> tuple[bytes, ...]:
        """The records known so far in ring order; all of them when :attr:`done`."""
        return tuple(self.records[rank] for rank in sorted(self.records))

    def _take_records(self, lane: _Lane, segment: int, extra: bytes) -> None:
        records = decode_records(extra, len(lane.ranks))
        if len(records) != len(lane.ranks):
            raise ProtocolViolation(f"{len(records)} records on segment {segment} where {len(lane.ranks)} belong")
        for rank, record in zip(lane.ranks, records, strict=True):
            if self.records.setdefault(rank, record) != record:
                raise ProtocolViolation(f"two different records of rank {rank}")

    def _extra(self, step: Step, lane: _Lane) -> bytes:
        """What came with the segment, and while it is reduced the own record."""
        ranks = lane.ranks if lane.phase is Phase.GATHER else [*lane.ranks, self.rank]
        return encode_records([self.records[rank] for rank in ranks])
