"""One run of the butterfly for one round: everybody's contributions to the own segment in, their aggregate out.

The same promises as those of a run of the ring (``attempt.py``), and the same way of keeping them: the input is never
written, and memory that is being sent does not change.  Contributions go out of the caller's tensors, or out of the
place in ``work`` where the owner's result will lie, which cannot come before the owner has them.  What has come in is
aggregated in a thread, in memory of its own; ``work`` is written on the loop only.

Everything goes through sockets, between peers on one machine as well: no board, no arena.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import structlog
import torch

from lepton_p2p.collectives.attempt import Inspect
from lepton_p2p.collectives.buffers import BufferPool
from lepton_p2p.collectives.contributions import Contributions, Made
from lepton_p2p.collectives.courier import Courier
from lepton_p2p.collectives.operations import Op, sound
from lepton_p2p.collectives.outcome import Broken, Outcome
from lepton_p2p.collectives.pending import counts, refuse
from lepton_p2p.collectives.silence import SilenceWatch
from lepton_p2p.collectives.sources import Source
from lepton_p2p.collectives.workbench import Workbench
from lepton_p2p.identity import PeerId, short
from lepton_p2p.rounds.aggregation import Aggregation
from lepton_p2p.rounds.butterfly import Arrival, ButterflyProgress, Leg, Parcel
from lepton_p2p.rounds.epoch import Epoch
from lepton_p2p.rounds.layout import Layout
from lepton_p2p.rounds.patience import Patience
from lepton_p2p.rounds.records import Record
from lepton_p2p.rounds.ring import ProtocolViolation
from lepton_p2p.steps import Steps, in_thread
from lepton_p2p.tasks import OwnedTasks
from lepton_p2p.transport.links.arrivals import Arrivals
from lepton_p2p.transport.links.frames import Header, Kind, checksum
from lepton_p2p.transport.links.link import Link

_log = structlog.get_logger(__name__)


class ButterflyAttempt:
    """One member's run of ``round`` in ``epoch``; see ``Attempt`` for what is not said here.

    votes_start: see ``Contributions``.  links: open ones to all other members.  paces: what is known of each.  tasks:
    owns the thread that aggregates, with memory of ``pool``.  on_hop(k) is called before the first chunk of the k-th
    contribution (1 to N-1) or result (N to 2(N-1)) that arrives is processed.
    """

    def __init__(
        self,
        *,
        epoch: Epoch,
        round: int,
        me: PeerId,
        layout: Layout,
        aggregation: Aggregation,
        votes_start: int,
        source: Source,
        work: torch.Tensor,
        record: bytes,
        inspect: Inspect,
        links: Mapping[PeerId, Link],
        arrivals: Arrivals,
        paces: Mapping[PeerId, Patience],
        pool: BufferPool,
        tasks: OwnedTasks,
        on_done: Callable[[Outcome], None],
        on_broken: Callable[[Broken], None],
        on_hop: Callable[[int], None] | None = None,
    ) -> None:
        rank = epoch.ids.index(me)
        self._progress = ButterflyProgress(len(epoch.ids), rank, layout, record)
        self._bench = Workbench(layout, rank, Op.MEAN, source, work)
        self._contributions = Contributions(layout, rank, votes_start, pool)
        self._epoch, self._round, self._me, self._layout = epoch, round, me, layout
        self._aggregation, self._source = aggregation, source
        self._inspect, self._links, self._arrivals = inspect, links, arrivals
        self._paces, self._tasks = paces, tasks
        self._on_done, self._on_broken, self._on_hop = on_done, on_broken, on_hop
        self._loop = asyncio.get_running_loop()
        self._couriers: dict[int, Courier] = {}
        self._lanes: dict[PeerId, _Lane] = {}
        self._opened = dict.fromkeys(Leg, 0)
        self._records_seen = 0
        self._outcome = Outcome()
        self._over = False
        self._making: asyncio.Task[None] | None = None
        self._unwatch: list[Callable[[], None]] = []
        self._started = 0.0
        self._first: float | None = None

    # what the owner calls

    def start(self) -> None:
        """Send the own contributions and expect those of the others; callbacks may come before this returns."""
        self._started = self._loop.time()
        for rank, peer in enumerate(self._epoch.ids):
            if peer != self._me:
                link = self._links[peer]
                self._unwatch.append(link.watch(partial(self._link_lost, peer)))
                self._couriers[rank] = Courier(link, self._epoch, self._round, self._payload)
                self._lanes[peer] = _Lane(self, rank, peer, self._arrivals, self._paces[peer])
        self._dispatch(self._progress.begin())
        for lane in self._lanes.values():
            lane.watch.start()
        if self._lanes:
            self._arrivals.expect_all(self._epoch, self._round, self._lanes)
        else:
            self._make_soon()

    def halt(self) -> None:
        """Stop at once: no callback and no write to ``work`` after this returns.  Idempotent.

        The links may go on sending from ``work``: before its memory is reused for something else, wait for
        ``Link.drained`` of all of them.  That holds after ``on_done`` as well.
        """
        if not self._over:
            self._close()

    # what the lanes call

    def admit(self, lane: _Lane, header: Header, extra: bytes) -> memoryview | None:
        """See ``ChunkSink``."""
        if self._over:
            return None
        try:
            try:
                arrival = self._progress.announced(
                    lane.rank, header.phase, header.segment, header.chunk, header.payload, extra
                )
            finally:
                # Inputs of another shape make chunks of another size: let the records explain it first.
                self._look_at_records()
            if header.kind is not Kind.CHUNK:
                raise ProtocolViolation("a chunk that does not travel")
        except ProtocolViolation as violation:
            self._break(f"{short(lane.peer)} sent what cannot be: {violation}", lane.peer)
            return None
        except ValueError as refusal:
            self._break(str(refusal), None)
            return None
        now = self._loop.time()
        if self._first is None:
            self._first = now
        if arrival.opens:
            self._opened[arrival.leg] += 1
            if self._on_hop is not None:
                results = 0 if arrival.leg is Leg.CONTRIBUTION else len(self._lanes)
                self._on_hop(self._opened[arrival.leg] + results)
                if self._over:
                    return None
        lane.begin(arrival, now)
        if arrival.leg is Leg.CONTRIBUTION:
            return self._contributions.place(lane.rank, arrival.chunk)
        return self._bench.place(arrival.chunk)

    def received(self, lane: _Lane, arrival: Arrival, header: Header) -> None:
        """The payload of ``arrival`` is where :meth:`admit` said."""
        if self._over:
            return
        progress, chunk = self._progress, arrival.chunk
        self._outcome.bytes_received += chunk.nbytes
        if arrival.leg is Leg.RESULT:
            if not sound(Op.MEAN, np.frombuffer(self._bench.place(chunk), chunk.dtype)):
                self._break(f"{short(lane.peer)} sent a result that is not finite", lane.peer)
                return
            self._bench.note(chunk, header.checksum)
        progress.completed(arrival)
        if not progress.owes(lane.rank):
            lane.watch.stop()
        if arrival.leg is Leg.CONTRIBUTION and progress.gathered:
            self._make_soon()
        if progress.done:
            self._finish()

    def broke(self, reason: str, suspect: PeerId | None) -> None:
        """It cannot go on."""
        self._break(reason, suspect)

    def expects(self, rank: int) -> bool:
        """Whether something is still to come from ``rank``."""
        return self._progress.owes(rank)

    # the inside

    def _dispatch(self, parcels: list[Parcel]) -> None:
        """Each parcel to its courier."""
        for rank, courier in self._couriers.items():
            courier.put(parcel for parcel in parcels if parcel.to == rank)

    def _payload(self, parcel: Parcel) -> tuple[memoryview, int]:
        began = time.perf_counter()
        chunk, bench = parcel.chunk, self._bench
        if parcel.leg is Leg.RESULT:
            return bench.place(chunk), bench.noted(chunk)
        payload = bench.own(chunk)
        if payload is None:
            payload = bench.place(chunk)
            bench.write_own(chunk, payload)
        digest = checksum(payload)
        self._outcome.seconds_compute += time.perf_counter() - began
        return payload, digest

    def _look_at_records(self) -> None:
        if len(self._progress.records) > self._records_seen:
            self._records_seen = len(self._progress.records)
            self._inspect(self._progress.ordered_records())

    def _make_soon(self) -> None:
        self._making = self._tasks.spawn(self._make(), "aggregate a segment")

    async def _make(self) -> None:
        """Aggregate the own segment and send what came out."""
        began = time.perf_counter()
        contributions = self._contributions
        try:
            made = await in_thread(self._aggregating())
        except Exception as error:
            self._making = None
            self._break(f"the own segment could not be aggregated: {error}", None)
            raise
        finally:
            contributions.give_back()
        base = self._layout.segments[self._progress.rank][0].start
        for chunk in self._layout.segments[self._progress.rank]:
            self._bench.place(chunk)[:] = made.values.data[chunk.start - base : chunk.stop - base]
            self._bench.hash(chunk)
            await asyncio.sleep(0)
        self._outcome.seconds_compute += time.perf_counter() - began
        # From here on :meth:`halt` finds nothing to cancel: this very task may be the one that calls it.
        self._making = None
        for rank in made.refused:
            _log.warning(
                "a member's contribution is not finite, though it says it is; it was left out",
                peer=short(self._epoch.ids[rank]),
                round=self._round,
            )
        self._dispatch(self._progress.aggregated(made.refused))
        if self._progress.done:
            self._finish()

    def _aggregating(self) -> Steps[Made]:
        """In one step, for a thread."""
        yield
        records = [Record.decode(record) for record in self._progress.ordered_records()]
        ranks = [rank for rank, record in enumerate(records) if counts(record)]
        return self._contributions.make(ranks, self._source, self._aggregation)

    def _finish(self) -> None:
        outcome = self._outcome
        for courier in self._couriers.values():
            courier.finish()
            outcome.bytes_sent += courier.bytes_sent
        now = self._loop.time()
        first = now if self._first is None else self._first
        refused = self._progress.refused()
        records = self._progress.ordered_records()
        outcome.records = tuple(refuse(one) if rank in refused else one for rank, one in enumerate(records))
        outcome.digest = self._bench.digest()
        outcome.seconds_wait, outcome.seconds_wire = first - self._started, now - first
        self._close()
        self._on_done(outcome)

    def _break(self, reason: str, suspect: PeerId | None) -> None:
        if not self._over:
            self.halt()
            self._on_broken(Broken(reason, suspect))

    def _link_lost(self, peer: PeerId, reason: str) -> None:
        self._break(f"the link to {short(peer)} is gone: {reason}", peer)

    def _close(self) -> None:
        """Let go of everything that refers to this attempt: garbage collection is not to keep the tensors alive."""
        self._over = True
        making, self._making = self._making, None
        if making is not None:
            making.cancel()  # gives the memory back when its thread has ended
        for unwatch in self._unwatch:
            unwatch()
        if self._lanes:
            self._arrivals.forget()
        if not self._progress.gathered:
            self._contributions.give_back()
        for lane in self._lanes.values():
            lane.close()
        for courier in self._couriers.values():
            courier.close()
        self._unwatch, self._lanes, self._couriers = [], {}, {}


class _Lane:
    """What comes from one member: the sink of its chunks, and the watch over its silence."""

    def __init__(self, attempt: ButterflyAttempt, rank: int, peer: PeerId, arrivals: Arrivals, pace: Patience) -> None:
        self.rank, self.peer = rank, peer
        self.watch = SilenceWatch(peer, arrivals, pace, lambda reason: attempt.broke(reason, peer))
        self._attempt: ButterflyAttempt | None = attempt
        self._arrival: Arrival | None = None
        self._begun = False

    def begin(self, arrival: Arrival, now: float) -> None:
        """The header of a chunk is here."""
        self._arrival, self._begun = arrival, True
        self.watch.chunk_began(arrival.chunk.nbytes, now)

    def close(self) -> None:
        """Nobody waits for it any more."""
        self.watch.stop()
        self._attempt = self._arrival = None

    def admit(self, header: Header, extra: bytes) -> memoryview | None:
        return None if self._attempt is None else self._attempt.admit(self, header, extra)

    def received(self, header: Header) -> None:
        arrival, self._arrival = self._arrival, None
        if self._attempt is not None and arrival is not None:
            self.watch.chunk_ended()
            self._attempt.received(self, arrival, header)

    def corrupt(self, header: Header) -> None:
        what = f"chunk {header.chunk} of segment {header.segment}"
        self._say(f"{short(self.peer)} sent {what} with a wrong checksum", self.peer)

    def lost(self, reason: str) -> None:
        # A member that was the left neighbour closes its link when the ring changes, and opens another one for this.
        # That it is dead shows at this side's own link to it.
        if self._begun:
            self._say(f"the link from {short(self.peer)} is gone: {reason}", self.peer)

    def overtaken(self, epoch: int, round: int) -> None:
        # One that has its result goes on to the next round while others still send to this one.
        if self._attempt is not None and self._attempt.expects(self.rank):
            self._say(f"{short(self.peer)} went on to epoch {epoch}, round {round}", None)

    def _say(self, reason: str, suspect: PeerId | None) -> None:
        if self._attempt is not None:
            self._attempt.broke(reason, suspect)
