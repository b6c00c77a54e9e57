"""What happens in a peer, for whoever listens: bounded queues, the slow reader loses the oldest."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from typing import Self
from weakref import WeakSet

from lepton_p2p.transport.values import NO_VALUES, SwarmEvent

_BACKLOG = 1000


class Subscription:
    """An iterator over the events since it was made; it ends with the hub, or by :meth:`aclose`."""

    def __init__(self) -> None:
        self._queue: deque[SwarmEvent] = deque(maxlen=_BACKLOG)
        self._ready = asyncio.Event()
        self._closed = False

    def put(self, event: SwarmEvent) -> None:
        if not self._closed:
            self._queue.append(event)
            self._ready.set()

    def close(self) -> None:
        """End after what is queued."""
        self._closed = True
        self._ready.set()

    async def aclose(self) -> None:
        """End now."""
        self._queue.clear()
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SwarmEvent:
        while not self._queue:
            if self._closed:
                raise StopAsyncIteration
            self._ready.clear()
            await self._ready.wait()
        return self._queue.popleft()


class EventHub:
    """Publish from the event loop; every subscriber gets what is published after it subscribed."""

    def __init__(self) -> None:
        # Who drops its subscription has ended it.
        self._subscribers: WeakSet[Subscription] = WeakSet()
        self._closed = False

    def publish(self, kind: str, text: str, *, peer: str = "", values: Mapping[str, float] = NO_VALUES) -> None:
        """Tell all subscribers; never blocks."""
        event = SwarmEvent(time.time(), kind, peer, text, values)
        for subscriber in self._subscribers:
            subscriber.put(event)

    def subscribe(self) -> Subscription:
        """Events from now on, until :meth:`close`."""
        subscriber = Subscription()
        if self._closed:
            subscriber.close()
        self._subscribers.add(subscriber)
        return subscriber

    def close(self) -> None:
        """End all subscriptions after what is queued."""
        self._closed = True
        for subscriber in self._subscribers:
            subscriber.close()
