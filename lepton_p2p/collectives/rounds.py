"""Atomic rounds on asyncio: drives the agreement, runs attempts, keeps inputs and results, recovers what was missed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from lepton_p2p.collectives.attempt import Broken, Outcome
from lepton_p2p.collectives.boards import Boards
from lepton_p2p.collectives.buffers import BufferPool
from lepton_p2p.collectives.counters import RoundCounters
from lepton_p2p.collectives.epoch_links import Connect, EpochLinks
from lepton_p2p.collectives.fetch import FetchServer
from lepton_p2p.collectives.packing import Packed
from lepton_p2p.collectives.pending import (
    Finished,
    Kept,
    Pending,
    contributors,
    layout_for,
    round_result,
)
from lepton_p2p.collectives.recovery import Describe, Recovery
from lepton_p2p.collectives.retention import Retention, Workspace
from lepton_p2p.collectives.starting import Running, Starter
from lepton_p2p.driver import MachineDriver
from lepton_p2p.errors import Closed, Dropped, RoundRejected, SchemaMismatch
from lepton_p2p.identity import PeerId, short
from lepton_p2p.rounds import effects as fx
from lepton_p2p.rounds.agreement import Agreement, Event
from lepton_p2p.rounds.butterfly import Leg
from lepton_p2p.rounds.epoch import Epoch
from lepton_p2p.rounds.inspection import DIFFER
from lepton_p2p.rounds.messages import RoundMessage
from lepton_p2p.rounds.patience import PatienceConfig
from lepton_p2p.rounds.records import Record
from lepton_p2p.rounds.result import Lost
from lepton_p2p.tasks import OwnedTasks
from lepton_p2p.transport.links.arrivals import Arrivals
from lepton_p2p.transport.links.frames import Header
from lepton_p2p.transport.links.link import Link

_log = structlog.get_logger(__name__)
_LEGS = frozenset(Leg)


class Rounds:
    """One peer's rounds.  All methods belong to the event loop; at most one round is pending at a time.

    send: delivers agreement messages (see ``MachineDriver``).  connect, describe: open links to, and ask, other
    peers.  accuse: tells membership who broke a round.  on_event: hears what the agreement emits.
    """

    def __init__(
        self,
        machine: Agreement,
        *,
        driver: Callable[..., MachineDriver[Agreement, RoundMessage]],
        connect: Connect,
        describe: Describe,
        arrivals: Arrivals,
        server: FetchServer,
        patience: PatienceConfig,
        accuse: Callable[[PeerId, str], None],
        on_event: Callable[[Event], None],
    ) -> None:
        self.pool = BufferPool()
        self.counters = RoundCounters()
        self.on_hop: Callable[[int, int], None] | None = None
        """Called with (round, hop) when the first chunk of a hop arrives; for metrics and fault injection."""
        self._machine = machine
        self._me = machine.me.id
        self._arrivals = arrivals
        self._accuse, self._on_event = accuse, on_event
        self._loop = asyncio.get_running_loop()
        self._tasks = OwnedTasks()
        self._retention = Retention(self.pool, server, self._tasks)
        self._recovery = Recovery(self._me, self._tasks, describe=describe, connect=connect, take=self.pool.take)
        self._links = EpochLinks(self._me, connect, self._link_lost, self._tasks)
        self._boards = Boards(self._me, self._tasks, lambda: self._links.right)
        self._starter = Starter(
            self._me,
            links=self._links,
            arrivals=arrivals,
            boards=self._boards,
            pool=self.pool,
            tasks=self._tasks,
            patience=patience,
        )
        arrivals.on_board = self._boards.offered
        arrivals.on_held = self._held
        self._pending: Pending | None = None
        self._attempt: Running | None = None
        self._workspace: Workspace | None = None
        self._lost: list[Lost] = []
        self._delivered = False
        self._owed: Dropped | None = None
        self._changed = asyncio.Event()
        self._closed: str | None = None
        self._driver: MachineDriver[Agreement, RoundMessage] = driver(
            machine,
            on_event=self._event,
            handlers={fx.Halt: self._halt, fx.Run: self._run, fx.Recover: self._recover, fx.Accuse: self._accused},
        )

    # -- what the peer calls -----------------------------------------------------------------------

    @property
    def epoch(self) -> Epoch | None:
        """The epoch that this peer is in now."""
        return self._machine.epoch

    @property
    def completed(self) -> int:
        """The last decided round."""
        return self._machine.progress.completed

    def feed(self, call: Callable[[float], Sequence[object]]) -> None:
        """Give the agreement an input: ``call(now)`` invokes one of its methods and returns the effects."""
        if self._closed is None:
            self._driver.feed(call)

    def receive(self, message: RoundMessage) -> None:
        """A message of another peer's agreement."""
        self.feed(lambda now: self._machine.receive(now, message))

    async def run(
        self, packed: Packed, *, weight: float = 1.0, note: bytes = b"", state: int = 0, root: PeerId | None = None
    ) -> Finished:
        """Run one round with ``packed`` and wait until it is decided; the bytes stay valid until the next one is.

        Raises :class:`Dropped`, :class:`SchemaMismatch`, :class:`RoundRejected`, :class:`Closed`.  Cancelling it
        takes the input back: this peer drops out of the epoch until the next call, the others go on.  If the peer was
        dropped between two rounds, the next call says so: what the caller got from the rounds before is obsolete.
        """
        if self._closed is not None:
            raise Closed(self._closed)
        if self._owed is not None:
            owed, self._owed = self._owed, None
            raise owed
        if self._pending is not None:
            raise RuntimeError("a round is pending already: await one collective before starting the next")
        future: asyncio.Future[Finished] = asyncio.get_running_loop().create_future()
        self._pending = Pending(packed, root, weight if packed.finite else 0.0, note, state, future)
        self.feed(lambda now: self._machine.start_round(now, packed.schema, state))
        try:
            return await future
        except asyncio.CancelledError:
            if self._pending is not None and self._pending.future is future:
                self._pending = None
                self.feed(lambda now: self._machine.withdraw(now, "its caller cancelled the round"))
                self._owed = None  # the caller knows
            raise

    def withdraw(self, reason: str) -> bool:
        """Take the pending input back now, as cancelling :meth:`run` does; False if nothing is pending (any more).

        Who cancels cannot tell whether the round was decided in the same moment; who withdraws can.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return False
        self.feed(lambda now: self._machine.withdraw(now, reason))
        self._owed = None  # the caller knows
        pending.future.cancel()
        return True

    async def wait_for_epoch(self, condition: Callable[[Epoch], bool]) -> Epoch:
        """Wait until this peer is in an epoch for which ``condition`` holds; it enters one if it gave up a round."""
        while True:
            if self._closed is not None:
                raise Closed(self._closed)
            if self._machine.resting:
                self.feed(lambda now: self._machine.begin(now, found=False))
            if self.epoch is not None and condition(self.epoch):
                return self.epoch
            self._changed.clear()
            await self._changed.wait()

    def kept(self, round: int) -> Kept | None:
        """The result of ``round`` if it is kept for others."""
        return self._retention.of(round)

    async def leave(self, reason: str) -> None:
        """Tell the members that this peer goes, and wait until they know; a pending round fails with Closed."""
        self.feed(lambda now: self._machine.leave(now, reason))
        self._fail(Closed(reason))
        await self._driver.flush()

    async def aclose(self, reason: str = "the peer is closed") -> None:
        """Stop; a pending round fails with :class:`Closed`."""
        if self._closed is not None:
            return
        self._closed = reason
        self._stop_attempt()
        self._fail(Closed(reason))
        self._changed.set()
        self._links.drop(reason)
        self._boards.move(None)
        self._arrivals.on_board = self._arrivals.on_held = None
        self._retention.close()
        await self._tasks.aclose()
        await self._driver.aclose()

    # -- what the agreement asks -------------------------------------------------------------------

    def _halt(self, effect: fx.Halt) -> None:
        self._stop_attempt()

    def _stop_attempt(self) -> None:
        self._links.cancel()
        if self._attempt is not None:
            self._attempt.halt()
            self._attempt = None
            workspace, self._workspace = self._workspace, None
            assert workspace is not None
            self._retention.give_back(workspace)
        self._recovery.cancel()

    def _run(self, run: fx.Run) -> None:
        pending = self._pending
        assert pending is not None, "the agreement runs a round that nobody handed in"
        pending.attempts = run.attempt
        if run.attempt > 1:
            self.counters.retried += 1
        self._starter.when_ready(pending, lambda links: self._start(run, pending, links))

    def _start(self, run: fx.Run, pending: Pending, links: dict[PeerId, Link]) -> None:
        self._attempt, self._workspace = self._starter.make(
            run,
            pending,
            links,
            previous=self._machine.progress.digest,
            on_done=lambda outcome: self._done(run, pending, outcome),
            on_broken=lambda broken: self._broken(run.epoch, broken),
            on_hop=lambda hop: self._hop(run.round, hop),
        )
        self._attempt.start()

    def _held(self, header: Header) -> None:
        """Others have begun a butterfly: who has not yet opens its links all the same, and is late, but not silent."""
        epoch = self.epoch
        if header.phase in _LEGS and epoch is not None and (header.epoch, header.tag) == (epoch.number, epoch.tag):
            self._links.open_all()

    def _hop(self, round: int, hop: int) -> None:
        if self.on_hop is not None:
            self.on_hop(round, hop)

    def _done(self, run: fx.Run, pending: Pending, outcome: Outcome) -> None:
        workspace = self._workspace
        assert workspace is not None
        self._attempt = self._workspace = None
        pending.spent.add(outcome)
        layout = layout_for(pending.packed, pending.root, run.epoch.ids)
        # 0 means "none" in reports and records.
        digest = outcome.digest or 1
        kept = Kept(
            run.round,
            run.epoch.number,
            run.epoch.tag,
            run.epoch.ids,
            outcome.records,
            digest,
            pending.attempts,
            layout,
            workspace.memory,
            workspace.common,
        )
        records = self._keep(kept, pending, workspace.links)
        count = len(contributors(records, pending.packed.op))
        if pending.packed.aggregation is None:
            self._boards.decided(run.round, records, layout.total)
        self.feed(lambda now: self._machine.completed(now, run.epoch.tag, digest, count))
        self._resolve(kept, pending, run.epoch, recovered=False)

    def _keep(self, kept: Kept, pending: Pending, links: Sequence[Link]) -> list[Record]:
        """Keep the result; returns what its members said."""
        pending.packed.release()
        self._retention.keep(kept, links)
        return [Record.decode(record) for record in kept.records]

    def _resolve(self, kept: Kept, pending: Pending, epoch: Epoch, *, recovered: bool) -> None:
        self._pending = None
        self._delivered = True
        lost, self._lost = self._lost, []
        result = round_result(kept, pending, epoch, lost, recovered=recovered)
        self._starter.say_if_too_few(pending, result)
        self.counters.decided(self._loop.time())
        if not pending.future.done():
            pending.future.set_result(Finished(kept, result))

    def _broken(self, epoch: Epoch, broken: Broken) -> None:
        _log.warning(
            "a round broke; the survivors agree on how it goes on",
            why=broken.reason,
            suspect=short(broken.suspect) if broken.suspect else None,
            epoch=epoch.number,
        )
        self.counters.broke(self._loop.time())
        self.feed(lambda now: self._machine.broken(now, epoch.tag, broken.reason, broken.suspect))

    def _link_lost(self, tag: int, peer: PeerId, reason: str) -> None:
        if self._attempt is None:
            # With an attempt running, the attempt itself reports it.
            self.feed(lambda now: self._machine.broken(now, tag, f"{short(peer)}: {reason}", peer))

    def _recover(self, effect: fx.Recover) -> None:
        pending = self._pending
        assert pending is not None, "a member that is behind has handed in its input"
        self._recovery.start(effect, pending, lambda kept: self._recovered(effect, pending, kept))

    def _recovered(self, effect: fx.Recover, pending: Pending, kept: Kept | None) -> None:
        if kept is None:
            reason = f"no holder could give the result of round {effect.round}"
            self.feed(lambda now: self._machine.broken(now, effect.epoch.tag, reason, None))
            return
        count = len(contributors(self._keep(kept, pending, ()), pending.packed.op))
        self.feed(lambda now: self._machine.recovered(now, effect.round, effect.digest, count))
        self._resolve(kept, pending, effect.epoch, recovered=True)

    def _accused(self, effect: fx.Accuse) -> None:
        self._accuse(effect.peer, effect.reason)

    # -- what the agreement tells ------------------------------------------------------------------

    def _event(self, event: Event) -> None:
        match event:
            case fx.Installed(epoch=epoch, decision=decision):
                self._lost += [Lost(peer, reason) for peer, reason in decision.lost]
                self._arrivals.advance(epoch.number, epoch.tag)
                self._arrivals.keep_only(epoch.ids)
                self._links.move(epoch)
                self._boards.move(epoch)
                self._starter.move(epoch)
                self._changed.set()
            case fx.DroppedOut(reason=reason):
                if self._machine.epoch is None:
                    # The members must notice at once; if they took this peer along as a newcomer the ring stays.
                    self._links.drop(reason)
                    self._boards.move(None)
                    self._arrivals.leave()
                self._lost.clear()
                dropped = Dropped(f"the swarm went on without this peer, which rejoins: {reason}")
                if self._pending is None and self._delivered:
                    self._owed = dropped
                self._delivered = False
                self._fail(dropped)
            case fx.Rejected(round=number, reason=reason):
                self.counters.lost += 1
                text = f"round {number} has no result: {reason}"
                self._fail(SchemaMismatch(text) if reason.startswith(DIFFER) else RoundRejected(text))
        self._on_event(event)

    def _fail(self, error: Exception) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.packed.release()
            if not pending.future.done():
                pending.future.set_exception(error)
