"""Pairwise messages in one process, delivered by threads of their own, with loss, repetition and death."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from lepton_p2p.errors import SwarmUnreachable
from lepton_p2p.identity import PeerId
from lepton_p2p.training.collective import PushHandler

Fate = Callable[[PeerId, PeerId], str]
"""(sender, partner) -> "ok", "lost" (never delivered), "unanswered" (delivered, the answer is lost), "twice"."""


class FakeNetwork:
    """All pairs; each receiver has one delivering thread, so that messages to it keep their order."""

    def __init__(self, fate: Fate = lambda sender, partner: "ok") -> None:
        self.fate = fate
        self._lock = threading.Lock()
        self._peers: dict[PeerId, FakeExchange] = {}
        self._threads: dict[PeerId, ThreadPoolExecutor] = {}

    def exchange(self, me: PeerId) -> FakeExchange:
        """A new peer, alive from now on."""
        with self._lock:
            self._peers[me] = FakeExchange(self, me)
            self._threads[me] = ThreadPoolExecutor(1)
            return self._peers[me]

    def alive(self) -> set[PeerId]:
        with self._lock:
            return set(self._peers)

    def kill(self, peer: PeerId) -> None:
        """It is gone, and all others know."""
        with self._lock:
            self._peers.pop(peer, None)
            others = list(self._peers.values())
        for other in others:
            for callback in other.gone:
                callback(peer)

    def send(self, sender: PeerId, partner: PeerId, header: bytes, payload: memoryview) -> Future[bool]:
        future: Future[bool] = Future()
        with self._lock:
            thread = self._threads[partner]
        thread.submit(self._deliver, sender, partner, header, payload, future)
        return future

    def _deliver(
        self, sender: PeerId, partner: PeerId, header: bytes, payload: memoryview, future: Future[bool]
    ) -> None:
        fate = self.fate(sender, partner)
        with self._lock:
            there = self._peers.get(partner) if sender in self._peers else None
        if there is None or there.handler is None or fate == "lost":
            future.set_exception(SwarmUnreachable("not delivered"))
            return
        taken = there.handler(sender, header, payload)
        if fate == "twice":
            assert there.handler(sender, header, payload) == taken
        if fate == "unanswered":
            future.set_exception(SwarmUnreachable("no answer"))
        else:
            future.set_result(taken)

    def close(self) -> None:
        for thread in self._threads.values():
            thread.shutdown()


class FakeExchange:
    """The network as one peer sees it."""

    def __init__(self, network: FakeNetwork, me: PeerId) -> None:
        self.me = me
        self.handler: PushHandler | None = None
        self.gone: list[Callable[[PeerId], None]] = []
        self.dropped: list[Callable[[], None]] = []
        self._network = network

    def alive(self) -> tuple[PeerId, ...]:
        return tuple(sorted(self._network.alive() - {self.me}))

    def push(self, partner: PeerId, header: bytes, payload: memoryview) -> Future[bool]:
        return self._network.send(self.me, partner, header, payload)

    def on_push(self, handler: PushHandler) -> None:
        self.handler = handler

    def on_gone(self, callback: Callable[[PeerId], None]) -> None:
        self.gone.append(callback)

    def on_dropped(self, callback: Callable[[], None]) -> None:
        self.dropped.append(callback)
