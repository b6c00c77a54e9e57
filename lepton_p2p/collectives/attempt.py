"""One run of the ring for one round: chunks in, reduced, out, until the result is complete or something breaks.

Why memory is never overwritten while it is still being sent.  Everything goes out of the caller's tensors, which do not
change, or out of ``work``, where partial sums arise.  These are overwritten by the final chunk of the same place; but
that final chunk is made from these very bytes, so it cannot come before they have left this process.  Final chunks are
written once.  What stays open is the time after the attempt: see :meth:`Attempt.halt`.

On a link with shared memory (``Link.slot``) chunks are read where the left neighbour put them, and partial sums are
written where the right neighbour reads them; only final chunks are copied.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from lepton_p2p.collectives.operations import Array, Op, sound
from lepton_p2p.collectives.outcome import Broken, Outcome, combined_digest, result_digest
from lepton_p2p.collectives.sending import UNSAID, Sender
from lepton_p2p.collectives.silence import SilenceWatch
from lepton_p2p.collectives.sources import Source
from lepton_p2p.identity import PeerId, short
from lepton_p2p.rounds.epoch import Epoch
from lepton_p2p.rounds.layout import Chunk, Layout
from lepton_p2p.rounds.patience import Patience
from lepton_p2p.rounds.ring import Operation, Outgoing, Phase, ProtocolViolation, RingProgress, Step
from lepton_p2p.transport.links.arrivals import Arrivals
from lepton_p2p.transport.links.frames import Header, checksum
from lepton_p2p.transport.links.link import Link

Inspect = Callable[[Sequence[bytes]], float | None]

__all__ = ["Attempt", "Broken", "Inspect", "Outcome", "result_digest"]


class Attempt:
    """One member's run of ``round`` in ``epoch``.

    layout, reduce_hops: see ``RingProgress``.  source: this member's input, never written; the whole buffer
    (``layout.total`` bytes) for a reduction, the own segment only when gathering.  work: becomes the result,
    ``layout.total`` bytes of flat uint8 on the CPU.  record: this member's encoded record.

    inspect is called with the records known so far, in ring order, whenever there are new ones.  It may raise
    ``ValueError``: the attempt then breaks for that reason.  Called with all records it returns what a mean is divided
    by (None: nothing).

    right: the open link to the right neighbour (None in an epoch of one).  arrivals: where the left one's chunks
    come from.  Exactly one of on_done and on_broken is called, once, unless :meth:`halt` comes first.
    on_hop(k) is called before the first chunk of the k-th of the 2(N-1) hops (N-1 when gathering) is processed.
    """

    def __init__(
        self,
        *,
        epoch: Epoch,
        round: int,
        me: PeerId,
        layout: Layout,
        reduce_hops: int,
        op: Op,
        source: Source,
        work: torch.Tensor,
        record: bytes,
        inspect: Inspect,
        right: Link | None,
        arrivals: Arrivals,
        patience: Patience,
        on_done: Callable[[Outcome], None],
        on_broken: Callable[[Broken], None],
        on_hop: Callable[[int], None] | None = None,
    ) -> None:
        self._rank = rank = epoch.ids.index(me)
        self._progress = RingProgress(len(epoch.ids), rank, layout, reduce_hops, record)
        own = layout.segments[rank]
        self._shift = 0 if op.reduces else own[0].start
        _check_sizes(source, work, layout, layout.total if op.reduces else sum(chunk.nbytes for chunk in own))
        self._epoch, self._round, self._layout, self._op = epoch, round, layout, op
        self._left = epoch.left_of(me)
        self._source = source
        self._work: Array = work.numpy()
        self._work_view = self._work.data
        self._inspect = inspect
        self._right, self._arrivals = right, arrivals
        self._on_done, self._on_broken, self._on_hop = on_done, on_broken, on_hop
        self._loop = asyncio.get_running_loop()
        self._watch = SilenceWatch(self._left, arrivals, patience, lambda reason: self._break(reason, self._left))
        self._sender = None if right is None else Sender(right, epoch, round, self._own)
        self._checksums = [[0] * len(chunks) for chunks in layout.segments]
        self._divisor: float | None = None
        self._records_seen = 0
        self._step: Step | None = None
        self._outcome = Outcome()
        self._over = False
        self._unwatch: Callable[[], None] | None = None
        self._started = 0.0
        self._first: float | None = None

    # what the owner calls

    def start(self) -> None:
        """Send the own segment and expect the left neighbour's chunks; callbacks may come before this returns."""
        self._started = self._loop.time()
        first = self._progress.begin()
        if self._progress.done:
            self._loop.call_soon(self._alone)
            return
        if self._right is None or self._sender is None:
            raise ValueError("an epoch of more than one member needs a link to the right neighbour")
        self._unwatch = self._right.watch(self._right_lost)
        # Only what a reduction starts from comes back to where it started.
        self._sender.begin(first, returning=self._op.reduces)
        self._watch.start()
        self._arrivals.expect(self._epoch, self._round, self._left, self)

    def halt(self) -> None:
        """Stop at once: no callback and no write to ``work`` after this returns.  Idempotent.

        The right link may go on sending from ``work`` (nothing is copied): before its memory is reused for something
        else, wait for ``Link.drained`` of the right link.  That holds after ``on_done`` as well.
        """
        if not self._over:
            self._close()

    # what the arrivals call

    def admit(self, header: Header, extra: bytes) -> memoryview | None:
        if self._over:
            return None
        try:
            try:
                step = self._progress.announced(header.phase, header.segment, header.chunk, header.payload, extra)
            finally:
                # Inputs of another shape make chunks of another size: let the records explain it first.
                self._look_at_records()
        except ProtocolViolation as violation:
            self._break(f"{short(self._left)} sent what cannot be: {violation}", self._left)
            return None
        except ValueError as refusal:
            self._break(str(refusal), None)
            return None
        now = self._loop.time()
        if self._first is None:
            self._first = now
        if step.opens and self._on_hop is not None:
            self._on_hop(step.hop)
            if self._over:
                return None
        self._step = step
        self._watch.chunk_began(step.chunk.nbytes, now, whole=header.lent is not None)
        if header.lent is not None and step.phase is Phase.REDUCE:
            return header.lent
        return self._place(step.chunk)

    def received(self, header: Header) -> None:
        step, self._step = self._step, None
        sender = self._sender
        if self._over or step is None or sender is None:
            return
        self._watch.chunk_ended()
        began = time.perf_counter()
        chunk = step.chunk
        self._outcome.bytes_received += chunk.nbytes
        place, slot, digest = self._place(chunk), None, header.checksum
        if step.phase is Phase.REDUCE:
            slot = sender.free_slot(chunk.nbytes) if step.operation is Operation.REDUCE else None
            into = place if slot is None else slot
            if not self._reduce(step, place if header.lent is None else header.lent, into):
                self._break(f"{short(self._left)} sent a partial result that is not finite", self._left)
                return
            if slot is None:
                digest = checksum(into)
        elif chunk.segment == self._rank:
            sender.returned()
        if step.operation is not Operation.REDUCE:
            self._checksums[chunk.segment][chunk.index] = digest
        outgoing = self._progress.completed(step)
        self._outcome.seconds_compute += time.perf_counter() - began
        if outgoing is not None and slot is not None:
            sender.send_slot(outgoing, UNSAID)
        elif outgoing is not None:
            sender.forward(outgoing, place, digest)
        sender.pump()
        if self._progress.done:
            self._finish()

    def corrupt(self, header: Header) -> None:
        self._break(
            f"{short(self._left)} sent chunk {header.chunk} of segment {header.segment} with a wrong checksum",
            self._left,
        )

    def lost(self, reason: str) -> None:
        self._break(f"the link from {short(self._left)} is gone: {reason}", self._left)

    def overtaken(self, epoch: int, round: int) -> None:
        self._break(f"{short(self._left)} went on to epoch {epoch}, round {round}", None)

    # the inside

    def _look_at_records(self) -> None:
        if len(self._progress.records) > self._records_seen:
            self._records_seen = len(self._progress.records)
            self._divisor = self._inspect(self._progress.ordered_records())

    def _place(self, chunk: Chunk) -> memoryview:
        return self._work_view[chunk.start : chunk.stop]

    def _reduce(self, step: Step, arrived: memoryview, into: memoryview) -> bool:
        """Fold the own input and what has ``arrived`` into ``into``; False if what arrived is not sound."""
        chunk = step.chunk
        values = np.frombuffer(arrived, chunk.dtype)
        if not sound(self._op, values):
            return False
        out = values if into is arrived else np.frombuffer(into, chunk.dtype)
        self._source.fold(self._op, chunk.start, chunk.stop, values, out)
        if step.operation is Operation.FINISH:
            self._divide(out)
        return True

    def _write_own(self, chunk: Chunk, into: memoryview) -> None:
        self._source.write(chunk.start - self._shift, chunk.stop - self._shift, np.frombuffer(into, chunk.dtype))

    def _divide(self, values: Array) -> None:
        if self._op is Op.MEAN and self._divisor is not None and values.size:
            with np.errstate(all="ignore"):
                np.divide(values, values.dtype.type(self._divisor), out=values)

    def _own(self, outgoing: Outgoing, slot: memoryview | None) -> tuple[memoryview, int]:
        """The own values of a chunk, in ``slot`` if there is one, and their checksum."""
        chunk = outgoing.chunk
        began = time.perf_counter()
        payload = self._source.view(chunk.start, chunk.stop) if self._op.reduces and slot is None else None
        if payload is None:
            # What only moves is final here as well, so that it must be in ``work``.
            payload = slot if slot is not None and self._op.reduces else self._place(chunk)
            self._write_own(chunk, payload)
        if slot is not None and payload is not slot:
            slot[:] = payload
        lent = slot is not None and outgoing.phase is Phase.REDUCE
        digest = UNSAID if lent else checksum(payload)
        self._outcome.seconds_compute += time.perf_counter() - began
        if outgoing.phase is Phase.GATHER:
            self._checksums[chunk.segment][chunk.index] = digest
        return payload, digest

    def _alone(self) -> None:
        """An epoch of one: the input is the result."""
        if self._over:
            return
        try:
            self._look_at_records()
        except ValueError as refusal:
            self._break(str(refusal), None)
            return
        for chunk in self._layout.chunks():
            self._write_own(chunk, self._place(chunk))
            self._divide(self._work[chunk.start : chunk.stop].view(chunk.dtype))
            self._checksums[chunk.segment][chunk.index] = checksum(self._place(chunk))
        self._finish()

    def _finish(self) -> None:
        outcome = self._outcome
        if self._sender is not None:
            self._sender.finish()
            outcome.bytes_sent = self._sender.bytes_sent
        now = self._loop.time()
        first = now if self._first is None else self._first
        outcome.records = self._progress.ordered_records()
        outcome.digest = combined_digest([one for row in self._checksums for one in row], self._layout.total)
        outcome.seconds_wait, outcome.seconds_wire = first - self._started, now - first
        self._close()
        self._on_done(outcome)

    def _break(self, reason: str, suspect: PeerId | None) -> None:
        if not self._over:
            self.halt()
            self._on_broken(Broken(reason, suspect))

    def _right_lost(self, reason: str) -> None:
        assert self._right is not None
        remote = self._right.remote
        self._break(f"the link to {short(remote or PeerId('?'))} is gone: {reason}", remote)

    def _close(self) -> None:
        """Let go of everything that refers to this attempt: garbage collection is not to keep the tensors alive."""
        self._over = True
        self._step = None
        self._watch.stop()
        unwatch, self._unwatch = self._unwatch, None
        if unwatch is not None:
            unwatch()
            self._arrivals.forget()
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.close()


def _check_sizes(source: Source, work: torch.Tensor, layout: Layout, need: int) -> None:
    if source.nbytes != need or work.numel() != layout.total:
        raise ValueError(
            f"source and work have {source.nbytes} and {work.numel()} bytes, not {need} and {layout.total}"
        )
