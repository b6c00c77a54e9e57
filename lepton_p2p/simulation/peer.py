"""One virtual process: the machines of a daemon, wired as ``runtime.node`` wires them."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.membership import Died, Joined, Left, Packet, SeedAnswered, Swim, SwimConfig, Trusted
from lepton_p2p.membership.events import SwimEvent
from lepton_p2p.rounds.agreement import Agreement
from lepton_p2p.rounds.config import AgreementConfig
from lepton_p2p.rounds.effects import DroppedOut
from lepton_p2p.rounds.messages import RoundMessage
from lepton_p2p.rounds.patience import PatienceConfig
from lepton_p2p.simulation.lanes import Lane
from lepton_p2p.simulation.machine import Clock, MachineRunner
from lepton_p2p.simulation.neighbours import Opened
from lepton_p2p.simulation.network import Door, Network
from lepton_p2p.simulation.oracle import Oracle
from lepton_p2p.simulation.replica import State
from lepton_p2p.simulation.rounds import Kept, VirtualRounds
from lepton_p2p.simulation.streams import Stream
from lepton_p2p.simulation.trainer import VirtualTrainer
from lepton_p2p.simulation.transfers import Transfers


@dataclass(frozen=True, slots=True)
class Timings:
    """The presets' time-outs: the same that daemons use."""

    swim: SwimConfig
    agreement: AgreementConfig
    patience: PatienceConfig

    @classmethod
    def preset(cls, name: str) -> Timings:
        """``local``, ``lan`` or ``wan``."""
        return cls(getattr(SwimConfig, name)(), getattr(AgreementConfig, name)(), getattr(PatienceConfig, name)())


class World(Protocol):
    """What a process finds around it."""

    network: Network
    oracle: Oracle

    def at(self, address: str) -> VirtualPeer | None:
        """Who listens there now."""

    def stepped(self, peer: VirtualPeer) -> None:
        """Its training has come to a new state, which could be written to its disk."""

    def gave_up(self, peer: VirtualPeer) -> None:
        """Its training ended with an error."""

    def guard(self, peer: VirtualPeer, call: Callable[[], None]) -> None:
        """Run ``call``; an exception is a broken invariant."""

    def note(self, peer: VirtualPeer, text: str, *details: object) -> None:
        """One line for the trace."""


class VirtualPeer:
    """``version``: of the protocol that it speaks; with those that speak another it has nothing to do.

    speed: seconds that its computation of one step takes.
    """

    def __init__(
        self,
        world: World,
        info: PeerInfo,
        timings: Timings,
        clock: Clock,
        rng: random.Random,
        *,
        initial: State,
        speed: float,
        version: int = 1,
    ) -> None:
        self.info, self.version = info, version
        self.alive, self.stopped, self.leaving = True, False, False
        self.streams: list[Stream] = []
        self._world, self._clock, self._rng, self._speed = world, clock, rng, speed
        self._backlog: list[Callable[[], None]] = []
        self._lanes: dict[str, Lane] = {}
        self.swim = Swim(info, timings.swim, rng)
        self._membership = self._runner(self.swim, self._send_packet, self._swim_event, {})
        self.agreement = Agreement(info, timings.agreement, rng)
        self._transfers = Transfers(self, world.network, rng)
        self.rounds = VirtualRounds(
            self,
            self.agreement,
            self,
            timings.patience,
            world.oracle,
            lambda handlers, event: self._runner(self.agreement, self._send_round, event, handlers),
        )
        self.trainer = VirtualTrainer(
            info,
            initial,
            self.rounds,
            self._transfers,
            world.oracle,
            pace=self._pace,
            stepped=lambda: world.stepped(self),
            gave_up=self._gave_up,
        )

    def __repr__(self) -> str:
        return f"{self.info.address.partition(':')[0]}/{self.info.id[:4]}"

    # -- its life --------------------------------------------------------------------------------------

    def start(self, seeds: Sequence[str], known: Sequence[PeerInfo], *, found: bool) -> None:
        """Meet the swarm, want an epoch, train."""

        def begin() -> None:
            self.agreement.held = self.trainer.state.cursor.work
            self.agreement.unanswered = set(seeds)
            self._membership.feed(lambda now: self.swim.start(now, seeds, known))
            self.rounds.feed(lambda now: self.agreement.begin(now, found=found))
            self.train()

        self.do(begin)

    def train(self) -> None:
        """From now on."""
        self.trainer.step()

    @property
    def running(self) -> bool:
        """Alive and not stopped."""
        return self.alive and not self.stopped

    def do(self, call: Callable[[], None]) -> None:
        """Run ``call`` in this process when it runs next; never if it has ended."""
        if self.stopped:
            self._backlog.append(call)
        elif self.alive:
            self._world.guard(self, call)

    def crash(self) -> None:
        """SIGKILL: nothing is said; the kernel closes what was open."""
        self.alive = False
        self._backlog.clear()
        self._membership.stop()
        self.rounds.close()
        self.trainer.stop()
        for stream in self.streams:
            stream.close(self, "connection reset")

    def stop(self) -> None:
        """SIGSTOP."""
        self.stopped = True

    def go_on(self) -> None:
        """SIGCONT: what waited comes at once, each kind in its order, all mixed up."""
        if self.stopped:
            self.stopped = False
            backlog, self._backlog = self._backlog, []
            for call in backlog:
                self.do(call)

    def leave(self) -> None:
        """A graceful end."""
        self.leaving = True
        self._world.oracle.left(self.info)

        def say_goodbye() -> None:
            self.trainer.stop()
            self.rounds.leave("it left")
            self._membership.feed(self.swim.leave)

        self.do(say_goodbye)
        # The process waits until its goodbyes are delivered, for a time.
        self._world.network.scheduler.after(self._world.network.timeout, self.crash)

    def withdraw(self) -> None:
        """Its program interrupts itself."""
        self.do(self.trainer.withdraw)

    def _gave_up(self, reason: str) -> None:
        self._world.note(self, "gives up", reason)
        self._world.network.scheduler.after(0.0, self._world.gave_up, self)

    def _pace(self) -> float:
        return self._speed * (0.5 + self._rng.random())

    def leftovers(self, others: Collection[str]) -> str:
        """What it keeps for ``others`` (their addresses) or has not dealt with, in words; "" if all is tidy.

        Chunks of the next round may be there before it has begun that; messages to those that do not answer wait; and
        who waits for the majority keeps what it will need then.
        """
        early = 2 * len(others) * len(self.trainer.state.numbers)
        kept = {
            "unsent messages": sum(lane.waiting for to, lane in self._lanes.items() if to in others),
            "chunks that nobody wants": max(0, self.rounds.inbox.held - early),
        }
        if not self.agreement.paused:
            kept["results of rounds to replay"] = self.trainer.kept
            kept["states of lineages of its own"] = self.trainer.carried
            kept["snapshots"] = len(self.trainer.keeping.rounds())
        return ", ".join(f"{count} {what}" for what, count in kept.items() if count)

    # -- messages ----------------------------------------------------------------------------------------

    def visit(self, visitor: VirtualPeer, call: Callable[[VirtualPeer], None], to: PeerId | None = None) -> Door:
        """``visitor`` calls at this process's door; ``to``: whom it expects here."""
        if not self.alive or visitor.version != self.version or to not in (None, self.info.id):
            return Door.SHUT
        self.do(lambda: call(self))
        return Door.STOPPED if self.stopped else Door.OPEN

    def call(
        self,
        address: str,
        call: Callable[[VirtualPeer], None],
        ended: Callable[[bool], None],
        to: PeerId | None = None,
        *,
        failures_only: bool = False,
    ) -> None:
        """``call`` the process at ``address``, if it is ``to``; ``ended(ok)`` here: see ``Network.call``."""

        def arrive() -> Door:
            there = self._world.at(address)
            return Door.SHUT if there is None else there.visit(self, call, to)

        def over(ok: bool) -> None:
            self.do(lambda: ended(ok))

        self._world.network.call(self.info.address, address, arrive, over, failures_only=failures_only)

    def _send_packet(self, to: str, packet: Packet) -> None:
        oracle = self._world.oracle
        oracle.incarnation(self.info.id, self.swim.incarnation)
        oracle.told(packet)

        def failed(ok: bool) -> None:
            self._membership.feed(lambda now: self.swim.send_failed(now, to, packet))

        self.call(to, lambda peer: peer._receive_packet(packet), failed, failures_only=True)

    def _receive_packet(self, packet: Packet) -> None:
        self._membership.feed(lambda now: self.swim.receive(now, packet))

    def _send_round(self, to: str, message: RoundMessage) -> None:
        self._world.note(self, "->", to, message)
        lane = self._lanes.get(to)
        if lane is None:
            lane = self._lanes[to] = Lane(lambda message, ended: self._deliver_round(to, message, ended))
        lane.put(message)

    def _deliver_round(self, to: str, message: Any, ended: Callable[[], None]) -> None:
        def over(ok: bool) -> None:
            ended()
            if not ok:
                self.rounds.feed(lambda now: self.agreement.send_failed(now, to, message))

        self.call(to, lambda peer: peer._receive_round(message), over)

    def _receive_round(self, message: RoundMessage) -> None:
        self.rounds.feed(lambda now: self.agreement.receive(now, message))

    # -- what its rounds and its trainer ask for -----------------------------------------------------------

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Run ``call`` in this process in ``seconds``."""
        self._world.network.scheduler.after(seconds, self.do, call)

    def now(self) -> float:
        """The world's time."""
        return self._world.network.scheduler.now

    def connect(self, peer: PeerInfo, opened: Opened) -> None:
        """Open a stream to ``peer``: a call for the ticket, then the connection."""
        made: list[Stream] = []

        def accept(target: VirtualPeer) -> None:
            stream = Stream(self._world.network, self, target)
            made.append(stream)
            target.streams = [old for old in target.streams if not old.closed] + [stream]
            self.streams = [old for old in self.streams if not old.closed] + [stream]
            target.rounds.inbox.accept(stream)

        def ended(ok: bool) -> None:
            if ok and made and not made[-1].closed:
                opened(made[-1])
                return
            for stream in made:
                stream.close(self, "its handshake was not finished")
            opened(None)

        self.call(peer.address, accept, ended, peer.id)

    def fetch_result(self, holder: PeerInfo, round: int, got: Callable[[Kept | None], None]) -> None:
        """Ask ``holder`` for the result of ``round``."""
        self._transfers.result(holder, round, got)

    def accuse(self, peer: PeerId, reason: str) -> None:
        """A round broke because of ``peer``."""
        self._membership.feed(lambda now: self.swim.accuse(now, peer, reason))

    # -- what its machines tell ----------------------------------------------------------------------------

    def _swim_event(self, event: SwimEvent) -> None:
        self._world.note(self, "membership:", event)
        match event:
            case Joined(peer=peer) | Trusted(peer=peer):
                self.rounds.feed(lambda now: self.agreement.alive(now, peer))
            case Died(peer=peer, reason=reason):
                self.rounds.feed(lambda now: self.agreement.gone(now, peer.id, reason))
            case Left(peer=peer):
                self.rounds.feed(lambda now: self.agreement.gone(now, peer.id, "it left", left=True))
            case SeedAnswered(address=address):
                self.agreement.unanswered.discard(address)

    def on_round_event(self, event: Any) -> None:
        """An event of the agreement."""
        self._world.note(self, "rounds:", event)
        if isinstance(event, DroppedOut):
            self._world.oracle.forgot(self.info)

    def _runner(
        self,
        machine: Any,
        send: Callable[[str, Any], None],
        on_event: Callable[[Any], None],
        handlers: Mapping[type, Callable[[Any], None]],
    ) -> MachineRunner:
        return MachineRunner(
            machine,
            self._world.network.scheduler,
            self._clock,
            run=self.do,
            send=send,
            on_event=on_event,
            handlers=handlers,
        )
