"""One run of the ring for one round: chunks in, reduced, out, until the result is complete or something breaks.

Why memory is never overwritten while it is still being sent.  Everything goes out of the caller's tensors, which do not
change, or out of ``work``, where partial sums arise.  These are overwritten by the final chunk of the same place; but
that final chunk is made from these very bytes, so it cannot come before they have left this process.  Final chunks are
written once.  What stays open is the time after the attempt: see :meth:`Attempt.halt`.

On a link with shared memory (``Link.slot``) chunks are read where the left neighbour put them, and partial sums are
written where the right neighbour reads them; only final chunks are copied.

On a board (``common``) all members see ``work`` itself: each adds its numbers to a chunk when it is its turn, says so
to the right neighbour, and writes no byte of it any more; final chunks are looked at where they lie.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import torch

from lepton_p2p.collectives.operations import Op
from lepton_p2p.collectives.outcome import Broken, Outcome, result_digest
from lepton_p2p.collectives.sending import UNSAID, Sender
from lepton_p2p.collectives.silence import SilenceWatch
from lepton_p2p.collectives.sources import Source
from lepton_p2p.collectives.workbench import Workbench
from lepton_p2p.identity import PeerId, short
from lepton_p2p.rounds.epoch import Epoch
from lepton_p2p.rounds.layout import Layout
from lepton_p2p.rounds.patience import Patience
from lepton_p2p.rounds.ring import Operation, Outgoing, Phase, ProtocolViolation, RingProgress, Step
from lepton_p2p.transport.links.arrivals import Arrivals
from lepton_p2p.transport.links.frames import Header, Kind, checksum
from lepton_p2p.transport.links.link import Link

Inspect = Callable[[Sequence[bytes]], float | None]

_STRIDE = 8
"""Chunks that one announcement of final ones on a board stands for: a millisecond's worth of looking at them."""

_NOTHING = memoryview(b"")

__all__ = ["Attempt", "Broken", "Inspect", "Outcome", "result_digest"]


class Attempt:
    """One member's run of ``round`` in ``epoch``.

    layout, reduce_hops: see ``RingProgress``.  source: this member's input, never written; the whole buffer
    (``layout.total`` bytes) for a reduction, the own segment only when gathering.  work: becomes the result,
    ``layout.total`` bytes of flat uint8 on the CPU; common: it lies on a board, as for all other members.  record: this
    member's encoded record.

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
        common: bool = False,
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
        stride = _STRIDE if common and reduce_hops else 1
        self._progress = RingProgress(len(epoch.ids), rank, layout, reduce_hops, record, stride=stride)
        self._bench = Workbench(layout, rank, op, source, work)
        self._epoch, self._round, self._layout, self._op = epoch, round, layout, op
        self._common, self._stride = common, stride
        self._left = epoch.left_of(me)
        self._inspect = inspect
        self._right, self._arrivals = right, arrivals
        self._on_done, self._on_broken, self._on_hop = on_done, on_broken, on_hop
        self._loop = asyncio.get_running_loop()
        self._watch = SilenceWatch(self._left, arrivals, patience, lambda reason: self._break(reason, self._left))
        self._sender = None if right is None else Sender(right, epoch, round, self._own, common=common)
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
        nbytes = None if header.kind is Kind.PLACED else header.payload
        try:
            try:
                step = self._progress.announced(header.phase, header.segment, header.chunk, nbytes, extra)
            finally:
                # Inputs of another shape make chunks of another size: let the records explain it first.
                self._look_at_records()
            if (header.kind is Kind.PLACED) is not self._common:
                raise ProtocolViolation("a board where there is none" if nbytes is None else "bytes beside the board")
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
        self._watch.chunk_began(step.chunk.nbytes, now, whole=self._common or header.lent is not None)
        if header.lent is not None and step.phase is Phase.REDUCE:
            return header.lent
        return self._bench.place(step.chunk)

    def received(self, header: Header) -> None:
        step, self._step = self._step, None
        sender = self._sender
        if self._over or step is None or sender is None:
            return
        self._watch.chunk_ended()
        if self._common:
            self._take_turn(step, header, sender)
        else:
            self._take_in(step, header, sender)
        if self._over:
            return
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
            self._bench.divisor = self._inspect(self._progress.ordered_records())

    def _take_in(self, step: Step, header: Header, sender: Sender) -> None:
        """A chunk has come: in ``work``, or lent by the left neighbour."""
        began = time.perf_counter()
        chunk, bench = step.chunk, self._bench
        self._outcome.bytes_received += chunk.nbytes
        place, slot, digest = bench.place(chunk), None, header.checksum
        if step.phase is Phase.REDUCE:
            final = step.operation is Operation.FINISH
            slot = None if final else sender.free_slot(chunk.nbytes)
            into = place if slot is None else slot
            if not bench.fold(chunk, place if header.lent is None else header.lent, into, final=final):
                self._unsound()
                return
            if slot is None:
                digest = checksum(into)
        elif chunk.segment == self._rank:
            sender.returned()
        if step.operation is not Operation.REDUCE:
            bench.note(chunk, digest)
        outgoing = self._progress.completed(step)
        self._outcome.seconds_compute += time.perf_counter() - began
        if outgoing is not None and slot is not None:
            sender.send_slot(outgoing, UNSAID)
        elif outgoing is not None:
            sender.forward(outgoing, place, digest)

    def _take_turn(self, step: Step, header: Header, sender: Sender) -> None:
        """It is this member's turn with a chunk on the board."""
        began = time.perf_counter()
        chunk, bench = step.chunk, self._bench
        if step.phase is Phase.REDUCE:
            final, place = step.operation is Operation.FINISH, bench.place(chunk)
            if not bench.fold(chunk, place, place, final=final):
                self._unsound()
                return
            if final:
                bench.hash(chunk)
                # Members keep step: by now the own chunk of the same number is about final elsewhere.
                sender.returned()
                if chunk.index == len(self._layout.segments[chunk.segment]) - 1:
                    sender.unbind()
        else:
            for one in self._layout.segments[chunk.segment][step.first : chunk.index + 1]:
                bench.hash(one)
            if bench.told(chunk.segment, step.first, chunk.index) != header.checksum:
                # Anybody can have written there.
                self._break(f"other bytes are on the board than {short(self._left)} told of", None)
                return
        outgoing = self._progress.completed(step)
        self._outcome.seconds_compute += time.perf_counter() - began
        if outgoing is not None:
            first = chunk.index // self._stride * self._stride
            told = UNSAID if outgoing.phase is Phase.REDUCE else bench.told(chunk.segment, first, chunk.index)
            sender.forward(outgoing, _NOTHING, told)

    def _own(self, outgoing: Outgoing, slot: memoryview | None) -> tuple[memoryview, int]:
        """The own values of a chunk, in ``slot`` if there is one, and their checksum."""
        began = time.perf_counter()
        chunk, bench, gather = outgoing.chunk, self._bench, outgoing.phase is Phase.GATHER
        payload = bench.own(chunk) if slot is None and not self._common else None
        if payload is None:
            # What only moves is final here as well, so that it must be in ``work``.
            payload = slot if slot is not None and not gather else bench.place(chunk)
            bench.write_own(chunk, payload)
        if slot is not None and payload is not slot:
            slot[:] = payload
        if gather:
            digest = bench.hash(chunk)
            if self._common:
                digest = bench.told(chunk.segment, chunk.index, chunk.index)
        else:
            digest = UNSAID if self._common or slot is not None else checksum(payload)
        self._outcome.seconds_compute += time.perf_counter() - began
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
        self._bench.fill_alone()
        self._finish()

    def _unsound(self) -> None:
        self._break(f"{short(self._left)} sent a partial result that is not finite", self._left)

    def _finish(self) -> None:
        outcome = self._outcome
        if self._sender is not None:
            self._sender.finish()
            outcome.bytes_sent = self._sender.bytes_sent
        now = self._loop.time()
        first = now if self._first is None else self._first
        outcome.records = self._progress.ordered_records()
        outcome.digest = self._bench.digest()
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
