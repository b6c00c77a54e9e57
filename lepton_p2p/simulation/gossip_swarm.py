"""A swarm of the strategy ``gossip``: the same processes, which push shares to each other instead of taking rounds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol, cast

from lepton_p2p.gossip.account import RETRY, UNCLAIMED
from lepton_p2p.gossip.wire import Header
from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.membership import Died, Left
from lepton_p2p.membership.events import SwimEvent
from lepton_p2p.rounds.effects import DroppedOut, Installed
from lepton_p2p.simulation.gossip import Answer, Gossiper
from lepton_p2p.simulation.mass import Book
from lepton_p2p.simulation.oracle import Violation
from lepton_p2p.simulation.peer import VirtualPeer, World
from lepton_p2p.simulation.plan import Outcome, Plan
from lepton_p2p.simulation.swarm import VirtualSwarm

_STEPS = 3
"""That each of the core must make after they have come together."""


class GossipWorld(World, Protocol):
    """What a gossiping process finds around it."""

    book: Book

    def holds(self, who: PeerId, hold: int) -> bool:
        """See ``Mail``."""


class GossipPeer(VirtualPeer):
    """Takes part in the agreement on epochs, as every daemon does, for they tell who has the same job."""

    gossiper: Gossiper | None = None
    founded = False
    left_behind = False

    def train(self) -> None:
        """As soon as there is an epoch."""
        if self.gossiper is not None or self.leaving:
            return
        if self.agreement.epoch is None:
            self.later(self._pace(), self.train)
            return
        world = cast(GossipWorld, self._world)
        self.gossiper = Gossiper(
            self.info.id,
            1.0 if self.founded else 0.0,
            self,
            world.book,
            self._rng,
            pace=self._pace,
            worked=lambda samples: self.rounds.feed(lambda now: self.agreement.worked(now, samples)),
            gave_up=self._gave_up,
        )
        if self.left_behind:
            self.gossiper.dropped()
        self.gossiper.step()

    def crash(self) -> None:
        super().crash()
        if self.gossiper is not None:
            self.gossiper.die()

    def leave(self) -> None:
        super().leave()
        if self.gossiper is not None:
            self.do(self.gossiper.stop)

    def withdraw(self) -> None:
        """There is no round to give up."""

    def leftovers(self, others: Collection[str]) -> str:
        """See ``VirtualPeer``."""
        kept = self.gossiper.kept if self.gossiper is not None else "nothing at all"
        return ", ".join(filter(None, (super().leftovers(others), kept)))

    # -- what its gossip asks for ---------------------------------------------------------------------------

    def others(self) -> Sequence[PeerInfo]:
        """See ``runtime.pair_exchange``."""
        epoch = self.agreement.epoch
        return [
            view.peer
            for view in self.swim.members
            if view.peer != self.info and (epoch is None or view.peer.id in epoch.ids)
        ]

    def push(self, to: PeerId, header: Header, marks: int, answered: Answer) -> None:
        """See ``Mail``."""
        partner = next((view.peer for view in self.swim.members if view.peer.id == to), None)
        if partner is None:
            self.later(0.0, lambda: answered(None))
            return
        got: list[bool] = []

        def arrive(there: VirtualPeer) -> None:
            gossiper = cast(GossipPeer, there).gossiper
            if gossiper is not None:
                got.append(gossiper.receive(self.info.id, header, marks))

        self.call(partner.address, arrive, lambda ok: answered(got[0] if ok and got else None), to)

    def holds(self, who: PeerId, hold: int) -> bool:
        """See ``Mail``."""
        return cast(GossipWorld, self._world).holds(who, hold)

    # -- what its machines tell ----------------------------------------------------------------------------

    def _swim_event(self, event: SwimEvent) -> None:
        super()._swim_event(event)
        if self.gossiper is not None and isinstance(event, Died | Left):
            self.gossiper.gone(event.peer.id)

    def on_round_event(self, event: Any) -> None:
        """As ``runtime.node`` does."""
        super().on_round_event(event)
        if isinstance(event, Installed):
            if event.epoch.number == 1:
                self.founded, self.left_behind = True, False
        elif isinstance(event, DroppedOut):
            self.left_behind = True
            if self.gossiper is not None:
                self.gossiper.dropped()


class GossipSwarm(VirtualSwarm):
    """Its book is exact at every moment; and a healed core has weights, trains, and ends with nothing on its way."""

    _process = GossipPeer

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.book = Book()
        super().__init__(*args, **kwargs)

    def run(self) -> Outcome:
        """See ``VirtualSwarm``."""
        outcome = super().run()
        book = self.book
        outcome.gossips = 1
        outcome.moved, outcome.returned = book.moved, book.returned
        outcome.voided, outcome.died, outcome.lost = book.voided, book.died, book.lost
        return outcome

    def holds(self, who: PeerId, hold: int) -> bool:
        """See ``Mail``."""
        gossipers = (self._gossiper(peer) for peer in self._peers.values() if peer.info.id == who and peer.alive)
        return any(gossiper is not None and hold in gossiper.account.ledger.holds for gossiper in gossipers)

    def stepped(self, peer: VirtualPeer) -> None:
        """Nothing is written down: weights mean something among the living only."""

    def _gossiper(self, peer: VirtualPeer) -> Gossiper | None:
        return cast(GossipPeer, peer).gossiper

    def _heal(self) -> list[VirtualPeer]:
        core = super()._heal()
        if not any(gossiper.account.ledger.weight for peer in core if (gossiper := self._gossiper(peer))):
            # Whoever had any is dead, or cut off for good: they say so, and are all started again.
            for peer in core:
                peer.crash()
                self.restart(peer.info.address)
        return [self._peers[peer.info.address] for peer in core]

    def _together(self, hosts: list[str], goal: list[int]) -> bool:
        """Whether all see exactly each other, are in one epoch, have weight, and make steps."""
        core = [self._peers[host] for host in hosts]
        gossipers = [gossiper for peer in core if (gossiper := self._gossiper(peer)) and gossiper.account.weight]
        if len(gossipers) < len(core) or not self._in_one_epoch(core):
            return False
        if not goal:
            goal += [gossiper.steps + _STEPS for gossiper in gossipers]
        return all(gossiper.steps >= steps for gossiper, steps in zip(gossipers, goal, strict=True))

    def _check_leftovers(self, hosts: list[str]) -> None:
        """At the end of a training they take nothing any more, and what is on its way finds out whose it is."""
        core = [gossiper for host in hosts if (gossiper := self._gossiper(self._peers[host])) is not None]
        for gossiper in core:
            gossiper.close()
        end = self.scheduler.now + UNCLAIMED + 4 * self._timings.agreement.promise_timeout
        while self.scheduler.now < end and not all(gossiper.account.settled for gossiper in core):
            self.scheduler.run(self.scheduler.now + RETRY)
            for gossiper in core:
                gossiper.clear_up()
        for gossiper in core:
            gossiper.settle()
        super()._check_leftovers(hosts)
        if self.book.under_way({self._peers[host].info.id for host in hosts}):
            raise Violation("mass-conserved", "shares were given that nobody knows of")


def swarm_of(plan: Plan, trace: Callable[[float, str, str], None] | None = None) -> VirtualSwarm:
    """The swarm that a plan stands for."""
    return (GossipSwarm if plan.gossips else VirtualSwarm)(plan, trace)
