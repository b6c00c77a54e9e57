"""The first bytes on an accepted connection: a preamble and a token, in time, or the connection is closed.

Where links are sealed the preamble is another one, and a proof follows: an empty piece sealed under the keys that
belong to the token, which goes in the clear.  Nothing is made for a connection before that proof is right.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from lepton_p2p.transport.links.seal import GREETING, TAG_BYTES, Opener, Sealer, SealError
from lepton_p2p.transport.links.tickets import TOKEN_BYTES

PREAMBLE = b"LPTNLNK1"
SEALED_PREAMBLE = b"LPTNLNK2"
GREETING_BYTES = len(PREAMBLE) + TOKEN_BYTES
SEALED_GREETING_BYTES = GREETING_BYTES + TAG_BYTES


def greeting(token: bytes, sealer: Sealer | None) -> bytes:
    """What the connector of a link says first; ``sealer``: its sending end, if the link is sealed."""
    if sealer is None:
        return PREAMBLE + token
    return SEALED_PREAMBLE + token + sealer.seal(b"", GREETING + token)


def proves(token: bytes, proof: bytes, opener: Opener) -> bool:
    """Whether who said ``token`` has the keys that belong to it; ``opener``: the acceptor's receiving end."""
    try:
        opener.open(proof, GREETING + token)
    except SealError:
        return False
    return True


class Handshake(asyncio.BufferedProtocol):
    """Reads exactly one greeting into a buffer of its size and hands token and proof (empty if not ``sealed``) on.

    ``on_token(handshake, token, proof)`` decides (and takes the transport over or calls :meth:`reject`);
    ``on_end(handshake, reason)`` is called once, with an empty reason if the connection was taken over.
    """

    def __init__(
        self,
        *,
        timeout: float,
        sealed: bool = False,
        on_start: Callable[[Handshake], None],
        on_token: Callable[[Handshake, bytes, bytes], None],
        on_end: Callable[[Handshake, str], None],
    ) -> None:
        self.transport: asyncio.Transport | None = None
        self.address = "unknown"
        self._timeout = timeout
        self._on_start = on_start
        self._on_token = on_token
        self._on_end = on_end
        self._preamble, self._other = (SEALED_PREAMBLE, PREAMBLE) if sealed else (PREAMBLE, SEALED_PREAMBLE)
        self._wrong = (
            "it asked for an open link, and the links of this peer are sealed: start it with credentials"
            if sealed
            else "it asked for a sealed link, and the links of this peer are open: this one has no credentials"
        )
        self._buffer = memoryview(bytearray(SEALED_GREETING_BYTES if sealed else GREETING_BYTES))
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
        return self._buffer[self._filled :] if self._filled < len(self._buffer) else self._buffer[:1]

    def buffer_updated(self, nbytes: int) -> None:
        if self._ended:
            return
        self._filled += nbytes
        preamble = bytes(self._buffer[: min(self._filled, len(PREAMBLE))])
        if preamble == self._other:
            self.reject(self._wrong)
        elif not (self._preamble.startswith(preamble) or self._other.startswith(preamble)):
            self.reject("it does not speak this protocol")
        elif self._filled == len(self._buffer):
            said = bytes(self._buffer[len(PREAMBLE) :])
            self._on_token(self, said[:TOKEN_BYTES], said[TOKEN_BYTES:])

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
