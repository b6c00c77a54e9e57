"""Tickets: how an accepted connection is known to come from whom the control plane authenticated."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from lepton_p2p.identity import PeerId
from lepton_p2p.transport.links.link import Purpose

TOKEN_BYTES = 32
_MAX_OUTSTANDING = 1024


@dataclass(frozen=True, slots=True)
class Ticket:
    """Where to connect and the secret to say there.  Good once, for a few seconds."""

    port: int
    token: bytes


@dataclass(frozen=True, slots=True)
class Claim:
    """Whom a token was issued to (None: a client) and for what."""

    remote: PeerId | None
    purpose: Purpose


class TicketBook:
    """The tokens that this peer has issued and that nobody has used yet: at most 1024, the oldest go first."""

    def __init__(self, *, lifetime: float, clock: Callable[[], float]) -> None:
        self._lifetime = lifetime
        self._clock = clock
        self._open: dict[bytes, tuple[Claim, float]] = {}

    def issue(self, claim: Claim) -> bytes:
        """A fresh token of 32 random bytes for ``claim``."""
        now = self._clock()
        # Insertion order is expiry order, so that expired ones are at the front.
        while self._open:
            oldest = next(iter(self._open))
            if self._open[oldest][1] > now and len(self._open) < _MAX_OUTSTANDING:
                break
            del self._open[oldest]
        token = secrets.token_bytes(TOKEN_BYTES)
        self._open[token] = (claim, now + self._lifetime)
        return token

    def redeem(self, token: bytes) -> Claim | None:
        """The claim of ``token``, which is void from now on; None if it is unknown, used or expired."""
        claim, expires = self._open.pop(token, (None, 0.0))
        return claim if claim is not None and self._clock() < expires else None

    def __len__(self) -> int:
        return len(self._open)
