"""What happens in a peer, for whoever listens: bounded queues, the slow reader loses the oldest."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping

from lepton_p2p.transport.values import NO_VALUES, SwarmEvent

_BACKLOG = 1000


class _Subscriber:
    def __init__(self) -> None:
        self.queue: deque[SwarmEvent] = deque(maxlen=_BACKLOG)
        self.ready = asyncio.Event()


class EventHub:
    """Publish from the event loop; every subscriber gets what is published after it subscribed."""

    def __init__(self) -> None:
        self._subscribers: set[_Subscriber] = set()
        self._closed = False

    def publish(self, kind: str, text: str, *, peer: str = "", values: Mapping[str, float] = NO_VALUES) -> None:
        """Tell all subscribers; never blocks."""
        event = SwarmEvent(time.time(), kind, peer, text, values)
        for subscriber in self._subscribers:
            subscriber.queue.append(event)
            subscriber.ready.set()

    async def subscribe(self) -> AsyncIterator[SwarmEvent]:
        """Events from now on, until :meth:`close`."""
        subscriber = _Subscriber()
        self._subscribers.add(subscriber)
        try:
            while True:
                while subscriber.queue:
                    yield subscriber.queue.popleft()
                if self._closed:
                    return
                subscriber.ready.clear()
                await subscriber.ready.wait()
        finally:
            self._subscribers.discard(subscriber)

    def close(self) -> None:
        """End all subscriptions after what is queued."""
        self._closed = True
        for subscriber in self._subscribers:
            subscriber.ready.set()
