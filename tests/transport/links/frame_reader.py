"""A frame protocol fed by hand, and what became of the frames."""

from __future__ import annotations

from typing import Any

from fake_wire import Wire

from lepton_p2p.transport.links.frames import Header
from lepton_p2p.transport.links.protocol import FrameProtocol, Verdict


class Inbox:
    """Takes every frame; ``hold`` and ``drain`` name rounds to be treated so."""

    def __init__(self) -> None:
        self.got: list[tuple[int, bytes, bytes]] = []
        self.corrupted: list[int] = []
        self.hold: set[int] = set()
        self.drain: set[int] = set()
        self._extra = b""
        self.memory = bytearray()

    def admit(self, header: Header, extra: bytes) -> memoryview | Verdict:
        if header.round in self.hold:
            return Verdict.HOLD
        if header.round in self.drain:
            return Verdict.DRAIN
        self._extra = extra
        self.memory = bytearray(header.payload)
        return memoryview(self.memory)

    def received(self, header: Header) -> None:
        self.got.append((header.round, self._extra, bytes(self.memory)))

    def corrupt(self, header: Header) -> None:
        self.corrupted.append(header.round)


class Reader:
    """A protocol on a :class:`Wire`, fed as a transport would."""

    def __init__(self, **options: Any) -> None:
        self.inbox = Inbox()
        self.lost: list[str] = []
        self.protocol = FrameProtocol(self.inbox, on_lost=self.lost.append, on_drained=lambda: None, **options)
        self.wire = Wire()
        self.protocol.connection_made(self.wire)  # type: ignore[arg-type]

    def feed(self, data: bytes, most: int = 1 << 30) -> bytes:
        """Let the protocol read ``data``, at most ``most`` bytes at a time; returns what it did not want to read."""
        view = memoryview(data)
        while view and not self.wire.paused and not self.wire.aborted:
            buffer = self.protocol.get_buffer(-1)
            count = min(len(view), len(buffer), most)
            assert count > 0
            buffer[:count] = view[:count]
            view = view[count:]
            self.protocol.buffer_updated(count)
        return bytes(view)
