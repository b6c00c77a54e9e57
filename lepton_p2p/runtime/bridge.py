"""From the training thread to the event loop: blocking calls that end when the peer is closed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from torch import Tensor

from lepton_p2p.collectives.operations import Op
from lepton_p2p.collectives.packing import Packed
from lepton_p2p.errors import Closed
from lepton_p2p.identity import PeerId
from lepton_p2p.rounds.aggregation import Aggregation
from lepton_p2p.rounds.result import RoundResult
from lepton_p2p.runtime.node import Node
from lepton_p2p.runtime.state_fetch import fetch_snapshot
from lepton_p2p.training.snapshots import Snapshot
from lepton_p2p.training.state import Schema

T = TypeVar("T")
_POLL = 0.1
"""How often a blocked thread looks whether it was cancelled; the result itself is never waited for longer."""


class Bridge:
    """Runs coroutines of the peer's loop for other threads; after :meth:`close` all calls raise :class:`Closed`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._running: set[Future[Any]] = set()
        self._closed = False

    def call(self, work: Coroutine[Any, Any, T], cancelled: threading.Event | None = None) -> T:
        """Run ``work`` on the loop and wait for it; set ``cancelled`` to give up (raises :class:`Closed`)."""
        with self._lock:
            if self._closed:
                work.close()
                raise Closed("the peer is closed")
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
            self._running.add(future)
        try:
            while True:
                try:
                    return future.result(None if cancelled is None else _POLL)
                except TimeoutError:
                    if future.done():
                        raise
                    if cancelled is not None and cancelled.is_set():
                        future.cancel()
        except CancelledError:
            raise Closed("the peer is closed") from None
        finally:
            with self._lock:
                self._running.discard(future)

    def post(self, callback: Callable[..., object], *args: object) -> None:
        """Call ``callback(*args)`` on the loop soon; nothing happens once the loop is closed."""
        with self._lock:
            if not self._closed:
                self._loop.call_soon_threadsafe(callback, *args)

    def close(self) -> None:
        """End all calls."""
        with self._lock:
            self._closed = True
            running = list(self._running)
        for future in running:
            future.cancel()


class BridgedCollective:
    """``training.Collective`` over a node: packs and unpacks in the calling thread, runs the round on the loop."""

    def __init__(self, node: Node, bridge: Bridge) -> None:
        self._node, self._bridge = node, bridge

    @property
    def me(self) -> PeerId:
        return self._node.me.id

    def members(self) -> tuple[PeerId, ...]:
        """Who is in the epoch, in ring order; nobody while this peer is outside."""
        epoch = self._node.rounds.epoch
        return epoch.ids if epoch is not None else ()

    def state_begins(self, work: int) -> None:
        """See ``training.Collective``."""
        self._bridge.post(self._node.state_begins, work)

    def state_holds(self, work: int) -> None:
        """See ``training.Collective``."""
        self._bridge.post(self._node.state_holds, work)

    def all_reduce(
        self,
        tensors: Sequence[Tensor],
        *,
        op: str = "mean",
        weight: float = 1.0,
        note: bytes = b"",
        state_digest: int = 0,
        aggregation: Aggregation | None = None,
    ) -> RoundResult:
        """See ``training.Collective``."""
        rounds = self._node.rounds
        packed = Packed.pack(tensors, Op(op), weight=weight, pool=rounds.pool, aggregation=aggregation)
        finished = self._bridge.call(rounds.run(packed, weight=weight, note=note, state=state_digest))
        packed.unpack(finished.kept.buffer, tensors)
        return finished.result


class BridgedStateSource:
    """``training.StateSource``: pulls a snapshot from several members."""

    def __init__(self, node: Node, bridge: Bridge) -> None:
        self._node, self._bridge = node, bridge

    def fetch(self, round: int, schema: Schema, cancelled: threading.Event) -> Snapshot:
        """See ``training.StateSource``."""
        return self._bridge.call(fetch_snapshot(self._node, round, schema), cancelled)
