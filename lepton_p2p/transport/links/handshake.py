"""The first bytes on an accepted connection: a preamble and a token, in time, or the connection is closed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from lepton_p2p.transport.links.tickets import TOKEN_BYTES

PREAMBLE = b"LPTNLNK1"
GREETING_BYTES = len(PREAMBLE) + TOKEN_BYTES


class Handshake(asyncio.BufferedProtocol):
    """Reads exactly ``GREETING_BYTES`` into a buffer of that size and hands the token on.

    ``on_token(handshake, token)`` decides (and takes the transport over or calls :meth:`reject`);
    ``on_end(handshake, reason)`` is called once, with an empty reason if the connection was taken over.
    """

    def __init__(
        self,
        *,
        timeout: float,
        on_start: Callable[[Handshake], None],
        on_token: Callable[[Handshake, bytes], None],
        on_end: Callable[[Handshake, str], None],
    ) -> None:
        self.transport: asyncio.Transport | None = None
        self.address = "unknown"
        self._timeout = timeout
        self._on_start = on_start
        self._on_token = on_token
        self._on_end = on_end
        self._buffer = memoryview(bytearray(GREETING_BYTES))
        self._filled = 0
        self._timer: asyncio.TimerHandle | None = None
        self._ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if isinstance(peer, tuple) and peer else "unknown"
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(
            self._timeout, self.reject, f"it did not identify itself within {self._timeout:g} s"
        )
        self._on_start(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        # Never empty: a second read after the greeting was complete would be a violation and finds a byte to say so.
        return self._buffer[self._filled :] if self._filled < GREETING_BYTES else self._buffer[:1]

    def buffer_updated(self, nbytes: int) -> None:
        if self._ended:
            return
        self._filled += nbytes
        preamble = bytes(self._buffer[: min(self._filled, len(PREAMBLE))])
        if not PREAMBLE.startswith(preamble):
            self.reject("it does not speak this protocol")
        elif self._filled == GREETING_BYTES:
            self._on_token(self, bytes(self._buffer[len(PREAMBLE) :]))

    def eof_received(self) -> bool:
        self.reject("it closed the connection before it identified itself")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._end("the connection broke before it identified itself")

    def reject(self, reason: str) -> None:
        """Close the connection at once."""
        self._end(reason)
        if self.transport is not None:
            self.transport.abort()

    def take_over(self) -> asyncio.Transport:
        """The transport, now the caller's: this handshake is over."""
        assert self.transport is not None
        self._end("")
        return self.transport

    def _end(self, reason: str) -> None:
        if not self._ended:
            self._ended = True
            if self._timer is not None:
                self._timer.cancel()
            self._on_end(self, reason)
