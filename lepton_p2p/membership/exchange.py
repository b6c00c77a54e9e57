"""What is sent without being asked: gossip, full exchanges, and attempts to reach the dead."""

from __future__ import annotations

import math

from lepton_p2p.identity import PeerInfo
from lepton_p2p.membership.beliefs import Beliefs
from lepton_p2p.membership.broadcasts import Broadcasts
from lepton_p2p.membership.config import SwimConfig
from lepton_p2p.membership.messages import Gossip, Status, Sync
from lepton_p2p.membership.outbox import Outbox
from lepton_p2p.membership.randomness import Randomness
from lepton_p2p.membership.table import Table

FAREWELLS = 64
"""A leaving peer tells at most this many members itself; they tell the others."""


class Exchange:
    """The three clocks besides probing: gossip (while there is news), sync, reconnect."""

    def __init__(
        self,
        config: SwimConfig,
        rng: Randomness,
        table: Table,
        broadcasts: Broadcasts,
        beliefs: Beliefs,
        outbox: Outbox,
    ) -> None:
        self._config = config
        self._rng = rng
        self._table = table
        self._broadcasts = broadcasts
        self._beliefs = beliefs
        self._outbox = outbox
        self._warm_up = config.probe_interval

    def start(self, now: float) -> None:
        """Set the clocks, each at a random phase."""
        if self._table.live_count:
            self._warm_up = math.inf  # no newcomer
        self._set_sync(now)
        self._set_reconnect(now)

    def gossip_soon(self, now: float) -> None:
        """See that the gossip clock runs if there is something to tell and somebody to hear it."""
        if len(self._broadcasts) and self._table.live_count and not self._outbox.is_armed("gossip"):
            self._outbox.set_timer("gossip", now + self._config.gossip_interval)

    def gossip(self) -> None:
        """Tell a few members the news; every packet makes the queue shorter, so this ends by itself."""
        for peer in self._some(self._config.gossip_fanout):
            if not len(self._broadcasts):
                return
            self._outbox.send(peer, Gossip())

    def sync(self, now: float) -> None:
        """Exchange everything with one member: repairs whatever gossip lost."""
        self._set_sync(now)
        for peer in self._some(1):
            self._offer(peer)

    def reconnect(self, now: float) -> None:
        """Forget those long dead; try one of the others: if it lives after all, it refutes and tells its side."""
        self._set_reconnect(now)
        self._table.forget(now - self._config.forget_after)
        here = self._beliefs.my_fact().peer.address
        dead = [view.peer for view in self._table.dead() if not self._beliefs.expelled(view.peer.id)]
        lost = [peer for peer in dead if peer.address != here and not self._table.live_at(peer.address)]
        for peer in self._rng.sample(lost, min(1, len(lost))):
            self._offer(peer)

    def farewell(self) -> None:
        """Tell everybody (many, in a large swarm) that this peer leaves."""
        goodbye = self._beliefs.my_fact(Status.LEFT)
        for peer in self._some(FAREWELLS):
            self._outbox.send(peer, Gossip(), goodbye)

    def _offer(self, peer: PeerInfo) -> None:
        self._outbox.send(peer, Sync(self._beliefs.facts(), reply=True))

    def _some(self, count: int) -> list[PeerInfo]:
        live = self._table.live_ids()
        views = map(self._table.get, self._rng.sample(live, min(count, len(live))))
        return [view.peer for view in views if view is not None]

    def _set_sync(self, now: float) -> None:
        # Of a swarm that starts all at once a newcomer's first exchange shows only a part.
        usual = self._config.sync_every(self._table.live_count + 1)
        pause = min(usual, self._warm_up)
        self._warm_up = min(2 * self._warm_up, usual)
        self._outbox.set_timer("sync", now + pause * (0.75 + self._rng.random() / 2))

    def _set_reconnect(self, now: float) -> None:
        self._outbox.set_timer("reconnect", now + self._config.reconnect_interval * (0.5 + self._rng.random()))
