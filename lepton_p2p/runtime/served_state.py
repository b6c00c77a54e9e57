"""Snapshots and weights that this peer serves: described over gRPC, their bytes over FETCH links."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from dataclasses import replace

from lepton_p2p.collectives.fetch import FetchServer
from lepton_p2p.errors import StateLost
from lepton_p2p.identity import PeerId
from lepton_p2p.runtime.bridge import Bridge
from lepton_p2p.runtime.manifests import to_wire
from lepton_p2p.runtime.state_fetch import SNAPSHOT
from lepton_p2p.training.snapshots import Snapshot
from lepton_p2p.training.store import SnapshotStore
from lepton_p2p.transport.values import Manifest

WEIGHTS = "weights"
"""The kind under which weights for clients are served, by numbers of their own."""
_KEPT_WEIGHTS = 2


class ServedState(SnapshotStore):
    """A store that tells the loop when a snapshot appears, so that who asks too early waits instead of polling."""

    def __init__(self, bridge: Bridge, server: FetchServer) -> None:
        super().__init__()
        self._bridge, self._server = bridge, server
        self._waiters: list[asyncio.Future[None]] = []
        self._served: set[int] = set()
        self._weights: dict[int, tuple[Snapshot, Snapshot]] = {}
        self._exports = 0

    def hold(self, snapshot: Snapshot, peers: Iterable[PeerId]) -> None:
        """As in the base class (any thread); the snapshot is also served until it is released."""
        super().hold(snapshot, peers)
        self._bridge.post(self._publish)

    def settle(self, *, members: Collection[PeerId], done: Collection[PeerId]) -> None:
        """As in the base class; what nobody needs any more is not served any more."""
        super().settle(members=members, done=done)
        self._bridge.post(self._publish)

    def clear(self) -> None:
        """As in the base class."""
        super().clear()
        self._bridge.post(self._publish)

    def _publish(self) -> None:
        kept = set(self.rounds())
        for round in self._served - kept:
            self._server.withdraw(SNAPSHOT, round)
        for round in kept - self._served:
            snapshot = self.get(round)
            if snapshot is not None:
                self._server.provide(SNAPSHOT, round, snapshot.read)
        self._served = kept
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def describe(self, round: int, patience: float) -> Manifest:
        """The snapshot after ``round``; waits up to ``patience`` seconds for it, then :class:`StateLost`."""
        try:
            async with asyncio.timeout(patience):
                while (snapshot := self.get(round)) is None:
                    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                    self._waiters.append(waiter)
                    await waiter
        except TimeoutError:
            raise StateLost(f"the state after round {round} is not kept here; it has {list(self.rounds())}") from None
        # Hashing takes its time (sha256 runs at about 2 GB/s): not on the loop.
        return to_wire(SNAPSHOT, await asyncio.to_thread(lambda: snapshot.manifest))

    async def describe_weights(self, snapshot: Snapshot) -> Manifest:
        """Serve ``snapshot`` (parameters and buffers) to clients; the last two are kept.

        Rounds and steps do not tell them apart: the round in which gossip ends may have the number of a step, and a
        lineage that was entered later those of another; and a client must not get chunks of two.
        """
        known = [numbered for given, numbered in self._weights.values() if given is snapshot]
        if not known:
            self._exports += 1
            known = [replace(snapshot, round=self._exports)]
            self._weights[self._exports] = (snapshot, known[0])
            self._server.provide(WEIGHTS, self._exports, known[0].read)
        while len(self._weights) > _KEPT_WEIGHTS:
            oldest = next(iter(self._weights))
            del self._weights[oldest]
            self._server.withdraw(WEIGHTS, oldest)
        return to_wire(WEIGHTS, await asyncio.to_thread(lambda: known[0].manifest))
