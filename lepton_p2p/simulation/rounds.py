"""Atomic rounds of one virtual process: what ``collectives.rounds.Rounds`` is on asyncio, with small vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from lepton_p2p.identity import PeerId, PeerInfo, short
from lepton_p2p.rounds import effects as fx
from lepton_p2p.rounds.agreement import Agreement
from lepton_p2p.rounds.epoch import Epoch
from lepton_p2p.rounds.inspection import agreeing
from lepton_p2p.rounds.patience import PatienceConfig
from lepton_p2p.rounds.records import Record
from lepton_p2p.rounds.result import Lost, RoundResult
from lepton_p2p.simulation.attempts import Sum, VirtualAttempt, digest
from lepton_p2p.simulation.machine import MachineRunner, Step
from lepton_p2p.simulation.neighbours import Inbox, Opened, RightLink
from lepton_p2p.simulation.streams import End, Numbers, Stream

SCHEMA = 7


@dataclass(frozen=True, slots=True)
class Kept:
    """A decided round's result as this process holds it."""

    round: int
    epoch: Epoch
    sum: Sum
    attempts: int


@dataclass(frozen=True, slots=True)
class Decided:
    """The caller's round has a result."""

    result: RoundResult
    numbers: Numbers


@dataclass(frozen=True, slots=True)
class Failed:
    """It has none: ``dropped`` (what the caller holds is obsolete) or rejected by agreement, for ``reason``."""

    dropped: bool
    reason: str


Ending = Callable[[Decided | Failed], None]


@dataclass(slots=True)
class Pending:
    """What the caller has handed in; kept until the round is decided."""

    numbers: Numbers
    weight: float
    note: bytes
    state: int
    ended: Ending
    attempts: int = 0


class Watcher(Protocol):
    """Who looks on (the oracle); sees what no process can see."""

    def ran(self, who: PeerInfo, run: fx.Run, numbers: Numbers) -> None: ...

    def decided(self, who: PeerInfo, kept: Kept, *, recovered: bool) -> None: ...

    def installed(self, who: PeerInfo, event: fx.Installed, held: int) -> None: ...


class Services(Protocol):
    """What the rounds of a process need of it and of the world."""

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Run ``call`` in this process in ``seconds``, when it runs then."""

    def now(self) -> float:
        """The world's time."""

    def connect(self, peer: PeerInfo, opened: Opened) -> None: ...

    def fetch_result(self, holder: PeerInfo, round: int, got: Callable[[Kept | None], None]) -> None:
        """Ask ``holder`` for the result of ``round``; ``got(None)`` if it cannot be had there."""

    def on_round_event(self, event: Any) -> None: ...

    def accuse(self, peer: PeerId, reason: str) -> None: ...


class VirtualRounds:
    """At most one round is pending at a time."""

    def __init__(
        self,
        end: End,
        machine: Agreement,
        services: Services,
        patience: PatienceConfig,
        watcher: Watcher,
        runner: Callable[[Mapping[type, Callable[[Any], None]], Callable[[Any], None]], MachineRunner],
    ) -> None:
        self.kept: Kept | None = None
        self._end, self._machine, self._services = end, machine, services
        self._patience, self._watcher = patience, watcher
        self._me = end.info
        self.inbox = Inbox(end)
        self._ring = RightLink(end, services.connect, self._link_lost)
        self._pending: Pending | None = None
        self._attempt: VirtualAttempt | None = None
        self._recovery = 0
        self._lost: list[Lost] = []
        self._delivered = False
        self._owed: Failed | None = None
        handlers: dict[type, Callable[[Any], None]] = {
            fx.Halt: self._halt,
            fx.Run: self._run,
            fx.Recover: self._recover,
            fx.Accuse: self._accused,
        }
        self._runner = runner(handlers, self._event)

    @property
    def epoch(self) -> Epoch | None:
        """The epoch that this process is in."""
        return self._machine.epoch

    @property
    def busy(self) -> bool:
        """Whether its caller waits for a round."""
        return self._pending is not None

    @property
    def work(self) -> int:
        """Contributions in this lineage so far."""
        return self._machine.progress.work

    @property
    def origin(self) -> int:
        """Those of them that were there when the lineage began."""
        return self._machine.progress.origin

    def state_begins(self, work: int) -> None:
        """Say that the state which the members hold begins with ``work`` contributions."""
        self.feed(lambda now: self._machine.holds(now, work))

    def state_holds(self, work: int) -> None:
        """Say that there are ``work`` contributions in it now."""
        self.feed(lambda now: self._machine.worked(now, work))

    def feed(self, step: Step) -> None:
        """Give the agreement an input."""
        self._runner.feed(step)

    def run(self, numbers: Numbers, *, weight: float, note: bytes, state: int, ended: Ending) -> None:
        """Run one round; ``ended`` gets the outcome."""
        if self._owed is not None:
            owed, self._owed = self._owed, None
            ended(owed)
            return
        assert self._pending is None, "a round is pending already"
        self._pending = Pending(numbers, weight, note, state, ended)
        self.feed(lambda now: self._machine.start_round(now, SCHEMA, state))

    def withdraw(self, reason: str) -> bool:
        """The caller gives up the pending round; False if it has been decided meanwhile."""
        pending, self._pending = self._pending, None
        if pending is None:
            return False
        self.feed(lambda now: self._machine.withdraw(now, reason))
        self._owed = None
        return True

    def leave(self, reason: str) -> None:
        """Say goodbye to the epoch."""
        self.feed(lambda now: self._machine.leave(now, reason))
        self._pending = None

    def close(self) -> None:
        """The process ends."""
        self._runner.stop()
        if self._attempt is not None:
            self._attempt.halt()

    # -- what the agreement asks ---------------------------------------------------------------------

    def _halt(self, effect: fx.Halt) -> None:
        self._ring.cancel()
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.halt()
            self.inbox.forget()
        self._recovery += 1

    def _run(self, run: fx.Run) -> None:
        pending = self._pending
        assert pending is not None, "the agreement runs a round that nobody handed in"
        pending.attempts = run.attempt
        self._watcher.ran(self._me, run, pending.numbers)
        self._ring.when_ready(lambda right: self._start(run, pending, right))

    def _start(self, run: fx.Run, pending: Pending, right: Stream | None) -> None:
        record = Record(
            self._me.id, pending.weight, SCHEMA, self._machine.progress.digest, pending.state, note=pending.note
        )
        attempt = self._attempt = VirtualAttempt(
            run.epoch,
            run.round,
            self._me.id,
            pending.numbers,
            record.encode(),
            right,
            inspect=lambda records: agreeing(record, run.epoch, records),
            done=lambda sum: self._done(run, pending, sum),
            broken=lambda reason, suspect: self._broken(run.epoch, reason, suspect),
        )
        attempt.start()
        if attempt.alone:
            self._services.later(0.0, attempt.finish_alone)
            return
        self.inbox.expect(attempt)
        now = self._services.now()
        self._watch(attempt, now, now)

    def _watch(self, attempt: VirtualAttempt, since: float, expected: float) -> None:
        """Look every heartbeat whether the left neighbour has been silent for too long (see ``SilenceWatch``)."""
        if attempt.over or self._attempt is not attempt:
            return
        now, patience = self._services.now(), self._patience
        if now - expected > patience.heartbeat:
            since = now  # this process stood still: what it did not hear proves nothing
        stream = self.inbox.stream_from(attempt.left)
        if stream is None:
            if now - since > patience.connect:
                attempt.fail(f"{short(attempt.left)} did not open its link within {patience.connect:g} s")
                return
        elif now - max(since, stream.look()) > max(patience.floor, 4 * patience.heartbeat):
            attempt.fail(f"{short(attempt.left)} has been silent")
            return
        then = now + patience.heartbeat
        self._services.later(patience.heartbeat, lambda: self._watch(attempt, since, then))

    def _done(self, run: fx.Run, pending: Pending, sum: Sum) -> None:
        self._attempt = None
        self.inbox.forget()
        kept = self.kept = Kept(run.round, run.epoch, sum, pending.attempts)
        self._watcher.decided(self._me, kept, recovered=False)
        result = self._result(kept, pending, run.epoch, recovered=False)
        count = len(result.contributors)
        self.feed(lambda now: self._machine.completed(now, run.epoch.tag, sum.digest, count))
        self._resolve(pending, result, sum)

    def _resolve(self, pending: Pending, result: RoundResult, sum: Sum) -> None:
        self._pending = None
        self._delivered = True
        pending.ended(Decided(result, sum.numbers))

    def _broken(self, epoch: Epoch, reason: str, suspect: PeerId | None) -> None:
        self.inbox.forget()
        self._attempt = None
        self.feed(lambda now: self._machine.broken(now, epoch.tag, reason, suspect))

    def _link_lost(self, tag: int, peer: PeerId, reason: str) -> None:
        if self._attempt is not None:
            attempt = self._attempt
            attempt.halt()
            self._broken(attempt.epoch, f"{short(peer)}: {reason}", peer)
        else:
            self.feed(lambda now: self._machine.broken(now, tag, f"{short(peer)}: {reason}", peer))

    def _recover(self, effect: fx.Recover) -> None:
        pending = self._pending
        assert pending is not None, "a member that is behind has handed in its input"
        self._recovery += 1
        turn = effect.epoch.ids.index(self._me.id) % max(1, len(effect.holders))
        holders = [*effect.holders[turn:], *effect.holders[:turn]]
        self._ask(effect, pending, self._recovery, holders)

    def _ask(self, effect: fx.Recover, pending: Pending, ticket: int, holders: list[PeerInfo]) -> None:
        if not holders:
            reason = f"no holder could give the result of round {effect.round}"
            self.feed(lambda now: self._machine.broken(now, effect.epoch.tag, reason, None))
            return

        def got(kept: Kept | None) -> None:
            if ticket != self._recovery:
                return
            if kept is None or kept.round != effect.round or digest(kept.sum.numbers) != effect.digest:
                self._ask(effect, pending, ticket, holders[1:])
            else:
                self._recovered(effect, pending, kept)

        self._services.fetch_result(holders[0], effect.round, got)

    def _recovered(self, effect: fx.Recover, pending: Pending, kept: Kept) -> None:
        self.kept = kept
        self._watcher.decided(self._me, kept, recovered=True)
        result = self._result(kept, pending, effect.epoch, recovered=True)
        count = len(result.contributors)
        self.feed(lambda now: self._machine.recovered(now, effect.round, kept.sum.digest, count))
        self._resolve(pending, result, kept.sum)

    def _accused(self, effect: fx.Accuse) -> None:
        self._services.accuse(effect.peer, effect.reason)

    # -- what the agreement tells ----------------------------------------------------------------------

    def _event(self, event: Any) -> None:
        match event:
            case fx.Installed(epoch=epoch, decision=decision):
                self._lost += [Lost(peer, reason) for peer, reason in decision.lost]
                self.inbox.advance(epoch.number, epoch.tag)
                self.inbox.keep_only(epoch.ids)
                self._ring.move(epoch)
                self._watcher.installed(self._me, event, self._machine.progress.digest)
            case fx.DroppedOut(reason=reason):
                if self._machine.epoch is None:
                    self._ring.drop(reason)
                    self.inbox.leave()
                self._lost.clear()
                dropped = Failed(True, reason)
                if self._pending is None and self._delivered:
                    self._owed = dropped
                self._delivered = False
                self._fail(dropped)
            case fx.Rejected(reason=reason):
                self._fail(Failed(False, reason))
        self._services.on_round_event(event)

    def _fail(self, failed: Failed) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.ended(failed)

    def _result(self, kept: Kept, pending: Pending, epoch: Epoch, *, recovered: bool) -> RoundResult:
        records = [Record.decode(record) for record in kept.sum.records]
        lost, self._lost = self._lost, []
        return RoundResult(
            epoch=kept.epoch.number,
            round=kept.round,
            attempts=max(1, pending.attempts),
            members=kept.epoch.ids,
            contributors=tuple(record.peer for record in records if record.weight > 0),
            refused=(),
            newcomers=tuple(m.id for m in epoch.members if m.since == kept.round and m.id in kept.epoch.ids),
            lost=tuple(lost),
            total_weight=sum(record.weight for record in records),
            digest=kept.sum.digest,
            notes=MappingProxyType({record.peer: record.note for record in records}),
            recovered=recovered,
        )
