"""How facts become beliefs: precedence, suspicion, refutation, restarts at the same address."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from lepton_p2p.identity import PeerId, PeerInfo, short
from lepton_p2p.membership.awareness import Awareness
from lepton_p2p.membership.broadcasts import Broadcasts
from lepton_p2p.membership.config import SwimConfig
from lepton_p2p.membership.events import DeclaredDead, Died, Joined, Left, Suspected, Trusted
from lepton_p2p.membership.messages import Gossip, Ping, Rumour, Status
from lepton_p2p.membership.notary import Notary
from lepton_p2p.membership.outbox import Outbox
from lepton_p2p.membership.suspicion import Suspicion
from lepton_p2p.membership.table import MAX_INCARNATION, Change, MemberView, Table


class Beliefs:
    """Owns this peer's incarnation, the table's contents and the running suspicions."""

    def __init__(
        self,
        me: PeerInfo,
        config: SwimConfig,
        table: Table,
        broadcasts: Broadcasts,
        awareness: Awareness,
        outbox: Outbox,
        notary: Notary,
    ) -> None:
        self._me = me
        self._config = config
        self._table = table
        self._broadcasts = broadcasts
        self._awareness = awareness
        self._outbox = outbox
        self._notary = notary
        self._own: Rumour | None = None
        self._suspicions: dict[PeerId, Suspicion] = {}
        self._expelled: set[PeerId] = set()
        self.incarnation = 0
        self._mourned = -1  # the highest own incarnation that others are known to have believed dead

    def my_fact(self, status: Status = Status.ALIVE) -> Rumour:
        """What this peer says of itself."""
        if self._own is None or (self._own.status, self._own.incarnation) != (status, self.incarnation):
            self._own = self._notary.sign(Rumour(self._me, status, self.incarnation, self._me.id))
        return self._own

    def facts(self) -> tuple[Rumour, ...]:
        """Everything believed, self first: the contents of a full exchange."""
        return (self.my_fact(), *self._table.facts())

    def hear(self, now: float, rumour: Rumour) -> None:
        """Take in a fact that rode on a packet.

        Where claims are signed, nobody's word alone ends a member: a "dead" counts as one more suspicion, and each
        peer passes its own verdict when it has waited for the refutation.
        """
        (self.learn_synced if self._notary.secured else self.learn)(now, rumour)

    def learn(self, now: float, rumour: Rumour, *, reason: str = "") -> None:
        """Take in a fact that was heard, in whatever order facts arrive."""
        if rumour.peer.id == self._me.id:
            self._about_me(rumour)
            return
        if rumour.peer.id in self._expelled and rumour.status < Status.DEAD:
            return
        if rumour.peer.address == self._me.address and rumour.status < Status.DEAD:
            # Whoever that was, this process listens there now.
            rumour = self._accusation(rumour, Status.DEAD)
        change = self._table.apply(rumour, now)
        if change is None:
            self._confirm(rumour)
            return
        self._broadcasts.put(rumour)
        self._watch(now, change, rumour, reason)
        self._announce(change, rumour, reason)
        if change.after.live and len(self._table.live_at(rumour.peer.address)) == 2:
            # Two processes cannot share an address: whoever answers there is the one (see ``met``).  Not for a
            # third, fourth, …: made-up facts must not turn this peer against a victim's address.
            self._outbox.send(rumour.peer, Ping(0, rumour.peer.id))

    def learn_synced(self, now: float, rumour: Rumour) -> None:
        """Take in a fact from a full exchange: a remote "dead" counts as a suspicion, which can be refuted.

        So a verdict that one side of a healed partition passed on the other does not spread unexamined.
        """
        if rumour.status is Status.DEAD and rumour.peer.id != self._me.id:
            if self._table.get(rumour.peer.id) is None:
                return
            rumour = replace(rumour, status=Status.SUSPECT)
        self.learn(now, rumour)

    def keep_to_oneself(self, rumours: Iterable[Rumour]) -> None:
        """Do not tell on those of ``rumours`` that were believed as they are.

        A newcomer hears of the whole swarm at once, and the swarm knows itself: telling it on, it would send many
        times as much as it was sent.  What it knows better (who was at its address before) it does tell.
        """
        for rumour in rumours:
            view = self._table.get(rumour.peer.id)
            if view is not None and view.fact is rumour:
                self._broadcasts.drop(rumour.peer.id)

    def met(self, now: float, sender: PeerInfo) -> None:
        """A packet came from ``sender`` itself, so that any other process at its address is no more."""
        if self._table.get(sender.id) is None:
            if self._notary.secured:
                self._outbox.send(sender, Ping(0, sender.id))  # its answer brings its word
                return
            self.learn(now, Rumour(sender, Status.ALIVE, 0, sender.id))
        view = self._table.get(sender.id)
        if view is None or not view.live:
            return
        for other in self._table.live_at(sender.address):
            if other.peer.id != sender.id and view.peer.address == sender.address:
                self._declare(now, other, f"restarted as {short(sender.id)}")

    def expel(self, now: float, peer: PeerId, reason: str) -> None:
        """Declare ``peer`` dead, and believe nobody that it lives, itself included; no matter if it is unknown."""
        view = self._table.get(peer)
        if view is None:
            return
        self._expelled.add(peer)
        if view.live:
            self._declare(now, view, reason)

    def expelled(self, peer: PeerId) -> bool:
        return peer in self._expelled

    def accuse(self, now: float, peer: PeerId, reason: str) -> None:
        """Suspect ``peer``, if it is live, on this peer's own evidence, and ask it at once to refute."""
        view = self._table.get(peer)
        if view is None or not view.live:
            return
        self.learn(now, self._accusation(view.fact, Status.SUSPECT), reason=reason)
        self._outbox.send(view.peer, Ping(0, peer))

    def expire(self, now: float, peer: PeerId) -> None:
        """The time to refute is over, unless the deadline moved."""
        suspicion, view = self._suspicions.get(peer), self._table.get(peer)
        if suspicion is None or view is None:
            return
        if suspicion.deadline > now:
            self._outbox.set_timer(("suspicion", peer), suspicion.deadline)
            return
        witnesses = ", ".join(short(origin) or "an unnamed peer" for origin in suspicion.origins)
        waited = now - suspicion.started
        self._declare(now, view, f"{suspicion.reason}; suspected by {witnesses} and silent for {waited:.1f} s")
        # If it can hear, it may refute even now: the packet carries the verdict.
        self._outbox.send(view.peer, Gossip())

    def postpone(self, seconds: float) -> None:
        """This process stood still for ``seconds``: give every suspect that much longer."""
        for peer, suspicion in self._suspicions.items():
            suspicion.postpone(seconds)
            self._outbox.set_timer(("suspicion", peer), suspicion.deadline)

    def _declare(self, now: float, view: MemberView, reason: str) -> None:
        self.learn(now, self._accusation(view.fact, Status.DEAD), reason=reason)

    def _accusation(self, fact: Rumour, status: Status) -> Rumour:
        """That the subject of ``fact`` is suspect or dead at the incarnation that it is known by, says this peer."""
        return self._notary.sign(replace(fact, status=status, origin=self._me.id, accusation=b""))

    def _about_me(self, rumour: Rumour) -> None:
        """Refute by a higher incarnation, which only the owner may raise."""
        known = self.incarnation
        wrong = rumour.status in (Status.SUSPECT, Status.DEAD) or rumour.peer.address != self._me.address
        if rumour.incarnation > MAX_INCARNATION or rumour.status is Status.LEFT:
            return  # made up, and beyond refuting
        if rumour.status is Status.DEAD and rumour.incarnation > self._mourned:
            # Also when a suspicion of the same incarnation came first and has been refuted: some did act on it.
            self._mourned = rumour.incarnation
            self._outbox.emit(DeclaredDead())
        if rumour.incarnation > known or (wrong and rumour.incarnation == known):
            self.incarnation = rumour.incarnation + 1
            self._awareness.add(1)
            self._broadcasts.put(self.my_fact())
        elif wrong and self._me.id not in self._broadcasts:
            # Refuted before, but somebody has not heard.
            self._broadcasts.put(self.my_fact())

    def _confirm(self, rumour: Rumour) -> None:
        """An old suspicion told by a new witness shortens the time-out, and is worth telling on."""
        if rumour.status is not Status.SUSPECT:
            return
        view, suspicion = self._table.get(rumour.peer.id), self._suspicions.get(rumour.peer.id)
        if suspicion is None or view is None:
            return
        if not self._table.credible(rumour) or (rumour.peer, rumour.incarnation) != (view.peer, view.incarnation):
            return
        if suspicion.confirm(rumour.origin):
            self._broadcasts.put(rumour)
            self._outbox.set_timer(("suspicion", view.peer.id), suspicion.deadline)

    def _watch(self, now: float, change: Change, rumour: Rumour, reason: str) -> None:
        """Start, restart or end the suspicion that belongs to the new belief."""
        peer = change.after.peer.id
        self._suspicions.pop(peer, None)
        if change.after.status is not Status.SUSPECT:
            self._outbox.cancel_timer(("suspicion", peer))
            return
        members = self._table.live_count + 1
        suspicion = Suspicion(self._config, members, now, rumour.origin, reason or "reported silent")
        self._suspicions[peer] = suspicion
        self._outbox.set_timer(("suspicion", peer), suspicion.deadline)

    def _announce(self, change: Change, rumour: Rumour, reason: str) -> None:
        """Tell the room above, once per change that it can see."""
        peer, status = change.after.peer, change.after.status
        was = change.before.status if change.before else Status.LEFT
        by = PeerId(rumour.origin)
        if was >= Status.DEAD and status < Status.DEAD:
            self._outbox.emit(Joined(peer))
        if status is Status.SUSPECT and was is not Status.SUSPECT:
            self._outbox.emit(Suspected(peer, by, reason or f"reported by {short(by) or 'an unnamed peer'}"))
        elif status is Status.ALIVE and was is Status.SUSPECT:
            self._outbox.emit(Trusted(peer))
        elif was < Status.DEAD and status is Status.DEAD:
            self._outbox.emit(Died(peer, reason or f"declared dead by {short(by) or 'an unnamed peer'}"))
        elif was < Status.DEAD and status is Status.LEFT:
            self._outbox.emit(Left(peer))
