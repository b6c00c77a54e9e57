"""SWIM with Lifeguard as one pure state machine: inputs and the time go in, effects come out.

SWIM: Das, Gupta, Motivala, DSN 2002.  Lifeguard: Dadgar, Phillips, Currey, arXiv 1707.00788.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import count

from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.membership.awareness import Awareness
from lepton_p2p.membership.beliefs import Beliefs
from lepton_p2p.membership.broadcasts import Broadcasts
from lepton_p2p.membership.config import SwimConfig
from lepton_p2p.membership.events import Died, Effect, Left
from lepton_p2p.membership.exchange import Exchange
from lepton_p2p.membership.hearing import Hearing
from lepton_p2p.membership.messages import Ack, Gossip, Nack, Packet, Ping, PingRequest, Rumour, Status, Sync
from lepton_p2p.membership.notary import Notary, Unsigned
from lepton_p2p.membership.outbox import Outbox
from lepton_p2p.membership.probing import Prober
from lepton_p2p.membership.randomness import Randomness
from lepton_p2p.membership.relaying import Relay
from lepton_p2p.membership.seeds import Seeds
from lepton_p2p.membership.table import MemberView, Table, well_formed
from lepton_p2p.sansio import Emit


class Swim:
    """Who is alive, as one peer sees it.

    me: this process; its address is the one that others can dial.  rng: all randomness.  ``now`` is seconds
    on one monotonic clock.  Feed every packet, timer and failed delivery to it and perform the effects it
    returns, in order.  Before :meth:`start` and after :meth:`leave` it is inert.  table: what is believed of the
    others from the beginning (default: nobody is known), for swarms that begin in the middle of their life.
    notary: signs claims and judges them (default: they are not signed).
    """

    def __init__(
        self,
        me: PeerInfo,
        config: SwimConfig,
        rng: Randomness,
        table: Table | None = None,
        notary: Notary | None = None,
    ) -> None:
        self._me = me
        self._config = config
        self._running = False
        self._since = 0.0
        self._status = Status.ALIVE
        sequences = count(1 + rng.randrange(2**32))  # an old process's late acks answer nothing of ours
        self._table = table = table if table is not None else Table(config.max_members - 1)
        broadcasts = Broadcasts()
        self._awareness = awareness = Awareness(config.awareness_max)
        self._outbox = outbox = Outbox(me, config, table, broadcasts)
        self._notary = notary = notary if notary is not None else Unsigned()
        self._hearing = Hearing(me, notary, table, outbox)
        self._beliefs = beliefs = Beliefs(me, config, table, broadcasts, awareness, outbox, notary)
        self._prober = Prober(config, rng, sequences, table, beliefs, awareness, outbox)
        self._relay = Relay(me, config, sequences, outbox)
        self._seeds = Seeds(me, config, rng, sequences, table, beliefs, outbox)
        self._exchange = Exchange(config, rng, table, broadcasts, beliefs, outbox)

    @property
    def me(self) -> PeerInfo:
        return self._me

    @property
    def incarnation(self) -> int:
        """How often this peer had to refute."""
        return self._beliefs.incarnation

    @property
    def health_score(self) -> int:
        """Lifeguard's local health: 0 is healthy, ``awareness_max - 1`` the worst."""
        return self._awareness.score

    @property
    def refused(self) -> int:
        """Claims that were dropped because a signature did not hold, or its maker is no member."""
        return self._hearing.refused

    @property
    def members(self) -> tuple[MemberView, ...]:
        """Everyone alive or suspected, this peer included, sorted by id."""
        return tuple(view for view in self.view() if view.live)

    def view(self) -> tuple[MemberView, ...]:
        """Everyone remembered, the dead and those that left included, sorted by id."""
        me = MemberView(self._beliefs.my_fact(self._status), self._since)
        return tuple(sorted((me, *self._table.all()), key=lambda view: view.peer.id))

    def news(self, rumours: Sequence[Rumour]) -> list[Rumour]:
        """Those of ``rumours`` that are not word for word what is believed."""
        return self._table.unlike(rumours)

    def knows_live_at(self, address: str) -> bool:
        """Whether another member that is alive or suspected is believed to listen at ``address``."""
        return bool(self._table.live_at(address))

    def start(self, now: float, seeds: Sequence[str] = (), known: Sequence[PeerInfo] = ()) -> list[Effect]:
        """Begin; contact ``seeds`` (``host:port``) and the last ``known`` members.

        Seeds are tried for ever; known members until any member is found.  Raises :class:`AddressError` for a
        seed that does not parse, ``RuntimeError`` when called twice.
        """
        if self._running or self._status is Status.LEFT:
            raise RuntimeError("a Swim machine starts once; make a new one, with a new peer id")
        self._seeds.start(now, seeds, known)
        self._running = True
        self._since = now
        self._prober.start(now)
        self._exchange.start(now)
        return self._finish(now)

    def receive(self, now: float, packet: Packet) -> list[Effect]:
        """A packet arrived; nothing in it is trusted."""
        sender = packet.sender
        if not self._running:
            return []
        if sender.id == self._me.id:
            if isinstance(packet.body, Sync) and packet.body.reply:
                self._seeds.is_me(packet.body.sequence)
            return self._finish(now)
        if sender.address == self._me.address or not self._may_speak(sender):
            return []
        self._notice_standstill(now)
        for rumour in self._hearing.introduction(packet):
            self._beliefs.hear(now, rumour)
        self._beliefs.met(now, sender)
        for rumour in self._hearing.heard(sender, packet.rumours):
            self._beliefs.hear(now, rumour)
        self._seeds.heard(now, sender)
        self._answer(now, packet)
        return self._finish(now)

    def timer(self, now: float, key: Hashable) -> list[Effect]:
        """A timer went off; unknown and cancelled keys are ignored."""
        if not self._running or self._outbox.fired(key) is None:
            return []
        self._notice_standstill(now)
        match key:
            case "probe":
                self._prober.interval(now)
            case "indirect":
                self._prober.ask_others()
            case "gossip":
                self._exchange.gossip()
            case "sync":
                self._exchange.sync(now)
            case "reconnect":
                self._exchange.reconnect(now)
            case ("suspicion", str(peer)):
                self._beliefs.expire(now, PeerId(peer))
            case ("relay", int(sequence)):
                self._relay.timer(now, sequence)
            case ("seed", str(address)):
                self._seeds.timer(now, address)
        return self._finish(now)

    def send_failed(self, now: float, to: str, packet: Packet) -> list[Effect]:
        """``packet`` could not be delivered to the address ``to`` (refused): a hint that saves waiting, no verdict."""
        if not self._running:
            return []
        match packet.body:
            case Ping() as ping:
                self._prober.undelivered(to, ping)
                self._relay.undelivered(ping.sequence)
            case PingRequest() as request:
                self._prober.relay_undelivered(to, request)
            case Sync(reply=True, sequence=sequence):
                self._seeds.undelivered(to, sequence)
            case _:
                pass
        return self._finish(now)

    def accuse(self, now: float, peer: PeerId, reason: str) -> list[Effect]:
        """The data plane saw ``peer`` fail (``reason``: one line): suspect it now, it may refute."""
        if not self._running:
            return []
        self._beliefs.accuse(now, peer, reason)
        return self._finish(now)

    def expel(self, now: float, peer: PeerId, reason: str) -> list[Effect]:
        """``peer`` lost its right to be a member (``reason``: one line): it is dead, whatever anybody says later.

        A peer that nobody has told of yet is left alone: expel it when it is heard of.
        """
        if not self._running:
            return []
        self._beliefs.expel(now, peer, reason)
        return self._finish(now)

    def leave(self, now: float) -> list[Effect]:
        """Say goodbye and stop for good: cancels every timer, answers nothing any more."""
        if not self._running:
            return []
        self._exchange.farewell()
        self._outbox.cancel_all()
        self._running = False
        self._status = Status.LEFT
        self._since = now
        return self._outbox.drain()

    def _answer(self, now: float, packet: Packet) -> None:
        sender, body = packet.sender, packet.body
        match body:
            case Ping(sequence, target) if target in ("", self._me.id):
                asked = self._notary.secured and not sequence  # by one who has not heard my word
                self._outbox.send(sender, Ack(sequence), *((self._beliefs.my_fact(),) if asked else ()))
            case Ping():
                # Meant for a process that was here before: no ack, but the asker learns who is here now.
                self._outbox.send(sender, Gossip(), self._beliefs.my_fact())
            case PingRequest():
                self._relay.request(now, sender, body)
            case Ack(sequence):
                self._prober.acked(sender.id, sequence)
                self._relay.acked(sender.id, sequence)
            case Nack(sequence):
                self._prober.nacked(sender.id, sequence)
            case Sync():
                self._merge(now, sender, body)
            case Gossip():
                pass
        asked = isinstance(body, Ping) or (isinstance(body, Sync) and body.reply)
        if not asked and self._status_of(sender.id) is Status.DEAD:
            self._outbox.send(sender, Gossip())  # carries what is believed of it, so that it can refute

    def _merge(self, now: float, sender: PeerInfo, sync: Sync) -> None:
        newcomer = self._table.live_count <= 1  # nobody, or the sender
        news = self._table.unlike(sync.members)
        for rumour in self._hearing.heard(sender, news):
            self._beliefs.learn_synced(now, rumour)
        if newcomer:
            self._beliefs.keep_to_oneself(news)
        if sync.reply:
            self._outbox.send(sender, Sync(self._beliefs.facts(), reply=False, sequence=sync.sequence))
        elif sync.sequence:
            self._seeds.heard(now, sender, sync.sequence)

    def _may_speak(self, sender: PeerInfo) -> bool:
        view = self._table.get(sender.id)
        if view is None or view.peer != sender:
            return well_formed(sender) and (view is None or view.status is not Status.LEFT)
        return view.status is not Status.LEFT

    def _status_of(self, peer: PeerId) -> Status | None:
        view = self._table.get(peer)
        return view.status if view is not None else None

    def _notice_standstill(self, now: float) -> None:
        """A process that was stopped must not take its own silence for that of the others."""
        late = now - self._prober.due
        if late > self._awareness.scale(self._config.probe_timeout):
            self._awareness.add(1)
            self._beliefs.postpone(late)
            self._prober.void(now)

    def _finish(self, now: float) -> list[Effect]:
        for effect in self._outbox.pending:
            if isinstance(effect, Emit) and isinstance(effect.event, Died | Left):
                self._seeds.lost(now, effect.event.peer.address)
        self._exchange.gossip_soon(now)
        return self._outbox.drain()
