"""One run of the ring for one round, in numbers that fit on a line: what ``collectives.attempt`` is with tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lepton_p2p.identity import PeerId, short
from lepton_p2p.rounds.epoch import Epoch
from lepton_p2p.rounds.layout import Group, Layout
from lepton_p2p.rounds.ring import Operation, Outgoing, ProtocolViolation, RingProgress, Step
from lepton_p2p.simulation.streams import Frame, Numbers, Stream, checksum

_SIZE = 8
CHUNK_BYTES = 64
"""The smallest there is: eight numbers, so that even short vectors are cut into several chunks."""


@dataclass(frozen=True, slots=True)
class Sum:
    """A complete result: the numbers, their digest (never 0), and the members' records in ring order."""

    numbers: Numbers
    digest: int
    records: tuple[bytes, ...]


def layout(length: int, world: int) -> Layout:
    """How a vector of ``length`` numbers is cut for ``world`` members."""
    return Layout.even((Group("int64", _SIZE, 0, length * _SIZE),), world, chunk_bytes=CHUNK_BYTES)


def digest(numbers: Numbers) -> int:
    """64 bits of a result, never 0."""
    return hash(numbers) & (2**64 - 1) or 1


class VirtualAttempt:
    """``own``: this member's numbers, never changed.  inspect(records): may raise ``ValueError``, as in ``Attempt``.

    Exactly one of done(sum) and broken(reason, suspect) is called, once, unless :meth:`halt` comes first.
    """

    def __init__(
        self,
        epoch: Epoch,
        round: int,
        me: PeerId,
        own: Numbers,
        record: bytes,
        right: Stream | None,
        *,
        inspect: Callable[[Sequence[bytes]], object],
        done: Callable[[Sum], None],
        broken: Callable[[str, PeerId | None], None],
    ) -> None:
        self.epoch, self.round = epoch, round
        self.left = epoch.left_of(me)
        world = len(epoch.ids)
        self._layout = layout(len(own), world)
        self._progress = RingProgress(world, epoch.ids.index(me), self._layout, world - 1, record)
        self._own, self._right = own, right
        self._inspect, self._done, self._broken = inspect, done, broken
        self._work: dict[tuple[int, int], Numbers] = {}
        self._seen = 0
        self.over = False

    def start(self) -> None:
        """Send the own segment."""
        for outgoing in self._progress.begin():
            self._send(outgoing, self._mine(outgoing.chunk.start, outgoing.chunk.stop))

    def finish_alone(self) -> None:
        """With nobody else the own numbers are the sum."""
        if not self.over:
            self._look_at_records()
        if not self.over:
            self.over = True
            self._done(Sum(self._own, digest(self._own), self._progress.ordered_records()))

    @property
    def alone(self) -> bool:
        """Whether there is nobody else."""
        return self._progress.done

    def halt(self) -> None:
        """No callback after this."""
        self.over = True

    def take(self, frame: Frame) -> None:
        """A chunk of this round from the left neighbour."""
        if self.over:
            return
        if not frame.intact:
            self.fail(f"{short(self.left)} sent chunk {frame.chunk} of segment {frame.segment} with a wrong checksum")
            return
        try:
            try:
                nbytes = len(frame.payload) * _SIZE
                step = self._progress.announced(frame.phase, frame.segment, frame.chunk, nbytes, frame.extra)
            finally:
                self._look_at_records()
        except ProtocolViolation as violation:
            self.fail(f"{short(self.left)} sent what cannot be: {violation}")
            return
        if not self.over:
            self._take_in(step, frame.payload)

    def fail(self, reason: str, *, accuse: bool = True) -> None:
        """It broke; the left neighbour is to blame unless ``accuse`` is False."""
        if not self.over:
            self.over = True
            self._broken(reason, self.left if accuse else None)

    def _take_in(self, step: Step, payload: Numbers) -> None:
        chunk = step.chunk
        if step.operation is not Operation.STORE:
            payload = tuple(map(int.__add__, payload, self._mine(chunk.start, chunk.stop)))
        if step.operation is not Operation.REDUCE:
            self._work[chunk.segment, chunk.index] = payload
        outgoing = self._progress.completed(step)
        if outgoing is not None:
            self._send(outgoing, payload)
        if self._progress.done:
            self.over = True
            numbers = tuple(number for place in sorted(self._work) for number in self._work[place])
            self._done(Sum(numbers, digest(numbers), self._progress.ordered_records()))

    def _mine(self, start: int, stop: int) -> Numbers:
        return self._own[start // _SIZE : stop // _SIZE]

    def _send(self, outgoing: Outgoing, payload: Numbers) -> None:
        assert self._right is not None, "an epoch of more than one member has a right neighbour"
        chunk, epoch = outgoing.chunk, self.epoch
        self._right.send(
            Frame(
                epoch.number,
                epoch.tag,
                self.round,
                outgoing.phase,
                chunk.segment,
                chunk.index,
                payload,
                checksum(payload),
                outgoing.extra,
            )
        )

    def _look_at_records(self) -> None:
        if len(self._progress.records) > self._seen:
            self._seen = len(self._progress.records)
            try:
                self._inspect(self._progress.ordered_records())
            except ValueError as refusal:
                self.fail(str(refusal), accuse=False)
