"""A virtual swarm that runs the real agreement machines: virtual clock, lossy network, crashes, pauses.

The ring is modelled adversarially.  Once every member of an epoch has run the same round in it, the result
*exists*; from then on any member that has not been halted may complete at any later moment, in any order,
whatever happens to the others (its bytes may already be on the way).  A result is the frozen set of the inputs
in it, so that two different results are never equal by accident.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.rounds import effects as fx
from lepton_p2p.rounds.agreement import Agreement, Effect
from lepton_p2p.rounds.config import AgreementConfig
from lepton_p2p.rounds.epoch import Epoch
from lepton_p2p.sansio import CancelTimer, Emit, Send, SetTimer

Result = frozenset[tuple[PeerId, int]]


def digest(result: Result) -> int:
    return random.Random(repr(sorted(result))).getrandbits(64) | 1


@dataclass
class Host:
    """One process: its machine, its kept input and results, its mishaps."""

    machine: Agreement
    input: int = 0
    rounds_wanted: bool = True
    running: Epoch | None = None
    history: dict[int, Result | str] = field(default_factory=dict)
    timers: dict[object, int] = field(default_factory=dict)
    crashed: bool = False
    paused: bool = False
    dropped: int = 0
    schema: int = 7
    met: set[PeerId] = field(default_factory=set)
    backlog: list[Callable[[], list[Effect]]] = field(default_factory=list)


class VirtualSwarm:
    def __init__(self, seed: int, config: AgreementConfig | None = None) -> None:
        self.rng = random.Random(seed)
        self.config = config or AgreementConfig.local()
        self.now = 0.0
        self.hosts: dict[PeerId, Host] = {}
        self.loss = 0.0
        self.cut: set[tuple[PeerId, PeerId]] = set()
        self.slow_rounds = 0.05
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._started: dict[tuple[int, int], dict[PeerId, int]] = {}

    # -- scenario ----------------------------------------------------------------------------------

    def add(
        self,
        *,
        found: bool,
        wants_rounds: bool = True,
        job: str = "",
        schema: int = 7,
        held: int = 0,
        majority: bool = False,
        join: Collection[PeerId] = (),
        introduced: bool = True,
    ) -> PeerId:
        """A fresh process; ``held``: the work in the checkpoint on its disk.

        ``join``: whom it was told to join.  ``introduced``: it meets all that live at once; otherwise see ``meet``.
        """
        peer = PeerId(f"{self.rng.getrandbits(128):032x}")
        info = PeerInfo(peer, f"host-{len(self.hosts)}:1")
        seed = random.Random(self.rng.random())
        host = Host(Agreement(info, self.config, seed, job), rounds_wanted=wants_rounds, schema=schema)
        host.machine.held, host.machine.majority = held, majority
        host.machine.unanswered = {self.hosts[other].machine.me.address for other in join}
        self.hosts[peer] = host
        self.feed(peer, lambda: host.machine.begin(self.now, found=found))
        for other in self.live():
            if other != peer and introduced:
                self.introduce(peer, other)
        if wants_rounds:
            self.after(self.rng.random() * 0.01, lambda: self.hand_in(peer))
        return peer

    def introduce(self, one: PeerId, two: PeerId) -> None:
        for a, b in ((one, two), (two, one)):
            info = self.hosts[b].machine.me
            self.after(self.rng.random() * 0.02, lambda a=a, info=info: self.feed(a, self._alive(a, info)))

    def meet(self, one: PeerId, two: PeerId) -> None:
        """They exchange all that they know, as members do."""
        for peer, told in ((one, {two} | self.hosts[two].met), (two, {one} | self.hosts[one].met)):
            for other in sorted(told - {peer}):
                if not self.hosts[other].crashed:
                    self.feed(peer, self._alive(peer, self.hosts[other].machine.me))

    def _alive(self, peer: PeerId, info: PeerInfo) -> Callable[[], list[Effect]]:
        host = self.hosts[peer]

        def call() -> list[Effect]:
            host.met.add(info.id)
            host.machine.unanswered.discard(info.address)
            return host.machine.alive(self.now, info)

        return call

    def crash(self, peer: PeerId, noticed_after: float = 0.5) -> None:
        """SIGKILL: its neighbours' links break at once, membership notices later."""
        self.hosts[peer].crashed = True
        for other in self.live():
            epoch = self.hosts[other].machine.epoch
            if epoch and peer in epoch.ids and peer in (epoch.left_of(other), epoch.right_of(other)):
                self.after(self.rng.random() * 0.01, self._break(other, epoch, peer))
            self.after(
                noticed_after * (0.5 + self.rng.random()),
                lambda other=other: self.feed(other, lambda: self.hosts[other].machine.gone(self.now, peer, "died")),
            )

    def cancel(self, peer: PeerId) -> None:
        """Its caller gives up the pending round, and calls again soon; whoever leaves an epoch closes its links."""
        host = self.hosts[peer]
        epoch = host.machine.epoch
        if host.machine.progress.schema is None:
            return
        self.feed(peer, lambda: host.machine.withdraw(self.now, "cancelled"))
        if epoch is not None and host.machine.epoch is None and len(epoch.members) > 1:
            for other in dict.fromkeys((epoch.left_of(peer), epoch.right_of(peer))):
                self.after(self.rng.random() * 0.01, self._break(other, epoch, peer))
        self.after(self.rng.random() * 0.02, lambda: self.hand_in(peer))

    def pause(self, peer: PeerId, seconds: float) -> None:
        """SIGSTOP now, SIGCONT later; the right neighbour notices the silence."""
        host = self.hosts[peer]
        host.paused = True
        for other in self.live():
            epoch = self.hosts[other].machine.epoch
            if epoch and peer in epoch.ids and peer == epoch.left_of(other):
                self.after(0.3, self._break(other, epoch, peer))
        self.after(seconds, lambda: self._resume(peer))

    def _resume(self, peer: PeerId) -> None:
        host = self.hosts[peer]
        host.paused = False
        backlog, host.backlog = host.backlog, []
        for call in backlog:
            self.feed(peer, call)
        epoch = host.machine.epoch
        if epoch is not None:
            self.feed(peer, lambda: host.machine.broken(self.now, epoch.tag, "link closed while stopped", None))

    def _break(self, peer: PeerId, epoch: Epoch, suspect: PeerId) -> Callable[[], None]:
        def call() -> None:
            self.feed(peer, lambda: self.hosts[peer].machine.broken(self.now, epoch.tag, "link lost", suspect))

        return call

    def live(self) -> list[PeerId]:
        return [peer for peer, host in self.hosts.items() if not host.crashed]

    def hand_in(self, peer: PeerId) -> None:
        host = self.hosts[peer]
        if host.crashed or not host.rounds_wanted or host.machine.progress.schema is not None:
            return
        host.input += 1
        self.feed(peer, lambda: host.machine.start_round(self.now, host.schema))

    # -- the world ---------------------------------------------------------------------------------

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._order), call))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            self.now, _, call = heapq.heappop(self._events)
            call()
        self.now = end

    def run_until(self, condition: Callable[[], bool], limit: float = 60.0) -> None:
        end = self.now + limit
        while not condition():
            assert self._events, "the virtual swarm is idle for ever"
            assert self.now < end, "the condition did not come true in time"
            self.now, _, call = heapq.heappop(self._events)
            call()

    def feed(self, peer: PeerId, call: Callable[[], list[Effect]]) -> None:
        host = self.hosts[peer]
        if host.crashed:
            return
        if host.paused:
            host.backlog.append(call)
            return
        for effect in call():
            self._perform(peer, host, effect)

    def _perform(self, peer: PeerId, host: Host, effect: Effect) -> None:
        match effect:
            case Send():
                self._send(peer, effect)
            case SetTimer():
                token = next(self._order)
                host.timers[effect.key] = token
                self.after(max(0.0, effect.at - self.now), lambda: self._fire(peer, effect.key, token))
            case CancelTimer():
                host.timers.pop(effect.key, None)
            case fx.Halt():
                host.running = None
            case fx.Run():
                assert host.machine.progress.schema is not None, "a round that nobody handed in"
                self._ring(peer, host, effect)
            case fx.Recover():
                assert host.machine.progress.schema is not None, "a member is behind that has handed in nothing"
                self._recover(peer, effect)
            case Emit(event=event):
                self._event(peer, host, event)

    def _fire(self, peer: PeerId, key: object, token: int) -> None:
        host = self.hosts[peer]
        if host.timers.get(key) == token:
            del host.timers[key]
            self.feed(peer, lambda: host.machine.timer(self.now, key))

    def _send(self, sender: PeerId, effect: Send) -> None:  # type: ignore[type-arg]
        to = next(p for p, host in self.hosts.items() if host.machine.me.address == effect.to)
        delay = 0.001 + self.rng.expovariate(1 / 0.002)
        if self.hosts[to].crashed:
            machine = self.hosts[sender].machine
            self.after(
                delay, lambda: self.feed(sender, lambda: machine.send_failed(self.now, effect.to, effect.message))
            )
        elif self.rng.random() >= self.loss and (sender, to) not in self.cut:
            machine = self.hosts[to].machine
            self.after(delay, lambda: self.feed(to, lambda: machine.receive(self.now, effect.message)))

    def _ring(self, peer: PeerId, host: Host, run: fx.Run) -> None:
        host.running = run.epoch
        started = self._started.setdefault((run.epoch.tag, run.round), {})
        started[peer] = host.input
        if len(started) == len(run.epoch.members):
            result = frozenset(started.items())
            for member in run.epoch.ids:
                delay = self.rng.random() * self.slow_rounds
                self.after(delay, lambda m=member: self._finish(m, run, result))

    def _finish(self, peer: PeerId, run: fx.Run, result: Result) -> None:
        host = self.hosts[peer]

        def call() -> list[Effect]:
            if host.running is not run.epoch and (host.running is None or host.running.tag != run.epoch.tag):
                return []
            host.running = None
            self._keep(peer, run.round, result)
            return host.machine.completed(self.now, run.epoch.tag, digest(result), len(result))

        self.feed(peer, call)

    def _keep(self, peer: PeerId, round: int, result: Result) -> None:
        self.hosts[peer].history[round] = result
        self.after(self.rng.random() * 0.01, lambda: self.hand_in(peer))

    def _recover(self, peer: PeerId, effect: fx.Recover) -> None:
        host = self.hosts[peer]

        def call() -> list[Effect]:
            if host.machine.progress.recovering != effect.round or host.machine.epoch is not effect.epoch:
                return []
            for holder in effect.holders:
                other = self.hosts[holder.id]
                result = other.history.get(effect.round)
                if not other.crashed and not other.paused and isinstance(result, frozenset):
                    assert digest(result) == effect.digest, "a holder serves something else than was agreed"
                    self._keep(peer, effect.round, result)
                    return host.machine.recovered(self.now, effect.round, effect.digest, len(result))
            return host.machine.broken(self.now, effect.epoch.tag, "no holder answers", None)

        self.after(0.01 + self.rng.random() * 0.02, lambda: self.feed(peer, call))

    def _event(self, peer: PeerId, host: Host, event: object) -> None:
        if isinstance(event, fx.DroppedOut):
            host.dropped += 1
            host.history.clear()
            self.after(self.rng.random() * 0.01, lambda: self.hand_in(peer))
        elif isinstance(event, fx.Rejected):
            host.history[event.round] = event.reason
            self.after(self.rng.random() * 0.01, lambda: self.hand_in(peer))

    # -- invariants --------------------------------------------------------------------------------

    def settled(self) -> bool:
        """Whether all live peers are in one epoch of exactly the live peers."""
        live = set(self.live())
        epochs = {self.hosts[peer].machine.epoch for peer in live}
        return len(epochs) == 1 and all(epoch is not None and set(epoch.ids) == live for epoch in epochs)

    def check_histories(self) -> None:
        """Peers of one epoch never hold different outcomes of the same round."""
        for one in self.live():
            for two in self.live():
                a, b = self.hosts[one], self.hosts[two]
                if a.machine.epoch is None or b.machine.epoch is None or a.machine.epoch.tag != b.machine.epoch.tag:
                    continue
                for round in a.history.keys() & b.history.keys():
                    assert a.history[round] == b.history[round], f"round {round} differs on {one[:8]} and {two[:8]}"

    def check_contributions(self) -> None:
        """No input is in the results of two rounds: what a peer brought is counted once."""
        for peer in self.live():
            seen: dict[tuple[PeerId, int], int] = {}
            for round, result in self.hosts[peer].history.items():
                for contribution in result if isinstance(result, frozenset) else ():
                    assert seen.setdefault(contribution, round) == round, f"counted twice: {contribution}"
