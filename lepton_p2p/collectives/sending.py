"""What an attempt sends to its right neighbour: in which order, and by which way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import NamedTuple

from lepton_p2p.rounds.epoch import Epoch
from lepton_p2p.rounds.outbox import Outbox
from lepton_p2p.rounds.ring import Outgoing
from lepton_p2p.transport.links.frames import Kind, encode
from lepton_p2p.transport.links.link import Link

_WINDOW = 2
"""Own chunks under way at a time between near neighbours (see ``Outbox``)."""
_TURN = 8
"""Chunks that are written on a board in one turn of the loop: a few milliseconds."""
UNSAID = 0
"""The checksum of partial sums that stay where they were made: what does not travel is not damaged on the way."""

Own = Callable[[Outgoing, memoryview | None], tuple[memoryview, int]]
"""``own(outgoing, slot)``: the own values of a chunk, in ``slot`` if there is one, and their checksum."""


class _Parcel(NamedTuple):
    """``payload`` with its ``digest``.  None: own values, to be read and hashed when their turn comes."""

    outgoing: Outgoing
    payload: memoryview | None = None
    digest: int = 0


class Sender:
    """The way to ``right`` for the chunks of ``round`` in ``epoch``.

    Payloads are not copied where they go through a socket: they must stay as they are until ``Link.drained``.
    common: they lie where the right neighbour needs them, and it is only told so.
    """

    def __init__(self, right: Link, epoch: Epoch, round: int, own: Own, *, common: bool) -> None:
        self.bytes_sent = 0
        self._common = common
        self._right, self._epoch, self._round, self._own = right, epoch, round, own
        self._outbox: Outbox[_Parcel] = Outbox(())

    def begin(self, first: Iterable[Outgoing], *, returning: bool) -> None:
        """Send the own chunks, ``first``; ``returning``: they come back, and only few are to be under way at a time."""
        window = _WINDOW if returning and (self._common or self._right.near) else None
        self._outbox = Outbox((_Parcel(outgoing) for outgoing in first), window)
        self._right.on_writable = self.pump
        self.pump()

    def pump(self) -> None:
        """Send while the link takes it; the rest waits here, so that little is left to send when a ring breaks.

        Where nothing is carried the link takes everything: then others get their turn on the loop in between.
        """
        sent = 0
        while self._right.ready and (parcel := self._outbox.next()) is not None:
            self._send(parcel)
            sent += 1
            if self._common and sent == _TURN:
                asyncio.get_running_loop().call_soon(self.pump)
                return

    def forward(self, outgoing: Outgoing, payload: memoryview, digest: int) -> None:
        """Send ``payload``, made from what came from the left, when its turn comes."""
        self._outbox.forward(_Parcel(outgoing, payload, digest))

    def returned(self) -> None:
        """One of the own chunks has come back."""
        self._outbox.returned()

    def unbind(self) -> None:
        """No more of them will be reported: send the rest as it comes."""
        self._outbox.unbind()

    def free_slot(self, nbytes: int) -> memoryview | None:
        """Where the right neighbour reads what is to be sent at once by :meth:`send_slot`; None: there is no such."""
        if self._common or self._outbox.passing or not self._right.ready:
            return None
        return self._right.slot(nbytes)

    def send_slot(self, outgoing: Outgoing, digest: int) -> None:
        """Send what lies in the slot that was asked for last."""
        nbytes = outgoing.chunk.nbytes
        self._right.send_lent(self._head(Kind.LENT, outgoing, digest, nbytes), nbytes)
        self.bytes_sent += nbytes

    def finish(self) -> None:
        """Send all that is left, whatever the link takes now: the next attempt must find nothing of this one."""
        for parcel in self._outbox.rest():
            self._send(parcel)

    def close(self) -> None:
        """Send nothing more."""
        self._outbox.clear()
        self._right.on_writable = None

    def _send(self, parcel: _Parcel) -> None:
        outgoing, payload, digest = parcel
        slot = None if self._common else self._right.slot(outgoing.chunk.nbytes)
        if payload is None:
            payload, digest = self._own(outgoing, slot)
        elif slot is not None:
            slot[:] = payload
        if self._common:
            self._right.send(self._head(Kind.PLACED, outgoing, digest, 0))
        elif slot is not None:
            self.send_slot(outgoing, digest)
        else:
            self._right.send(self._head(Kind.CHUNK, outgoing, digest, payload.nbytes), payload)
            self.bytes_sent += payload.nbytes

    def _head(self, kind: Kind, outgoing: Outgoing, digest: int, nbytes: int) -> bytes:
        chunk = outgoing.chunk
        return encode(
            kind,
            epoch=self._epoch.number,
            tag=self._epoch.tag,
            round=self._round,
            segment=chunk.segment,
            chunk=chunk.index,
            phase=outgoing.phase,
            extra=outgoing.extra,
            payload=nbytes,
            payload_checksum=digest,
        )
