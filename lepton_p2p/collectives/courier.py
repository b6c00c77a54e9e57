"""What one member sends to one other in a butterfly, as fast as the link takes it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from lepton_p2p.rounds.butterfly import Parcel
from lepton_p2p.rounds.epoch import Epoch
from lepton_p2p.transport.links.frames import Kind, encode
from lepton_p2p.transport.links.link import Link

Payload = Callable[[Parcel], tuple[memoryview, int]]
"""``payload(parcel)``: the bytes to send, and their checksum; asked for when their turn comes."""


class Courier:
    """The way to one member for the chunks of ``round`` in ``epoch``.

    Payloads are not copied: they must stay as they are until ``Link.drained``.
    """

    def __init__(self, link: Link, epoch: Epoch, round: int, payload: Payload) -> None:
        self.bytes_sent = 0
        self._link, self._epoch, self._round, self._payload = link, epoch, round, payload
        self._queue: deque[Parcel] = deque()
        link.on_writable = self.pump

    def put(self, parcels: Iterable[Parcel]) -> None:
        """Send these behind all others."""
        self._queue.extend(parcels)
        self.pump()

    def pump(self) -> None:
        """Send while the link takes it; the rest waits here, so that little is left to send when an attempt breaks."""
        while self._queue and self._link.ready:
            self._send(self._queue.popleft())

    def finish(self) -> None:
        """Send all that is left, whatever the link takes now: the next attempt must find nothing of this one."""
        while self._queue:
            self._send(self._queue.popleft())

    def close(self) -> None:
        """Send nothing more."""
        self._queue.clear()
        self._link.on_writable = None

    def _send(self, parcel: Parcel) -> None:
        chunk = parcel.chunk
        payload, digest = self._payload(parcel)
        head = encode(
            Kind.CHUNK,
            epoch=self._epoch.number,
            tag=self._epoch.tag,
            round=self._round,
            segment=chunk.segment,
            chunk=chunk.index,
            phase=parcel.leg,
            extra=parcel.extra,
            payload=chunk.nbytes,
            payload_checksum=digest,
        )
        self._link.send(head, payload)
        self.bytes_sent += chunk.nbytes
