"""Tickets: how an accepted connection is known to come from whom the control plane authenticated."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from lepton_p2p.identity import PeerId
from lepton_p2p.transport.links.keys import LinkKeys
from lepton_p2p.transport.links.purpose import Purpose

TOKEN_BYTES = 32
MAX_OUTSTANDING = 1024
MAX_EACH = 32
"""Tickets that one peer may have and not have used (all clients together count as one): links in a second or two."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """Where to connect and what to say there.  Good once, for a few seconds.

    ``share`` is the issuer's half of the link's keys (see ``keys.py``); empty: the link is open.
    """

    port: int
    token: bytes
    share: bytes = b""


@dataclass(frozen=True, slots=True)
class Claim:
    """Whom a token was issued to (None: a client), for what, and the link's keys if it is sealed."""

    remote: PeerId | None
    purpose: Purpose
    keys: LinkKeys | None = None

    def drop(self) -> None:
        """It will not be used: forget the keys."""
        if self.keys is not None:
            self.keys.wipe()


class TicketBook:
    """The tokens that this peer has issued and that nobody has used yet, each good for ``lifetime`` seconds.

    At most 1024, and at most 32 of one remote: its oldest go first, so that who asks without end hurts nobody else.
    Tokens are found by their keyed hash (SipHash), so that the time it takes says nothing about how much of one was
    guessed.
    """

    def __init__(self, *, lifetime: float, clock: Callable[[], float]) -> None:
        self._lifetime = lifetime
        self._clock = clock
        self._open: dict[bytes, tuple[Claim, float]] = {}
        self._of: dict[PeerId | None, dict[bytes, None]] = {}

    def new_token(self) -> bytes:
        """32 fresh random bytes."""
        return secrets.token_bytes(TOKEN_BYTES)

    def issue(self, claim: Claim, token: bytes | None = None) -> bytes:
        """A fresh token, or ``token``, for ``claim``."""
        now = self._clock()
        token = token or self.new_token()
        # Insertion order is expiry order, so that expired ones are at the front.
        while self._open:
            oldest = next(iter(self._open))
            if self._open[oldest][1] > now and len(self._open) < MAX_OUTSTANDING:
                break
            self._take(oldest).drop()
        mine = self._of.get(claim.remote, {})
        if len(mine) >= MAX_EACH:
            self._take(next(iter(mine))).drop()
        self._open[token] = (claim, now + self._lifetime)
        self._of.setdefault(claim.remote, {})[token] = None
        return token

    def redeem(self, token: bytes) -> Claim | None:
        """The claim of ``token``, which is void from now on; None if it is unknown, used or expired."""
        if token not in self._open:
            return None
        expires = self._open[token][1]
        claim = self._take(token)
        if self._clock() >= expires:
            claim.drop()
            return None
        return claim

    def void(self, remote: PeerId | None) -> None:
        """No ticket of ``remote`` is good any more."""
        for token in tuple(self._of.get(remote, ())):
            self._take(token).drop()

    def clear(self) -> None:
        """No ticket is good any more."""
        while self._open:
            self._take(next(iter(self._open))).drop()

    def _take(self, token: bytes) -> Claim:
        claim, _ = self._open.pop(token)
        theirs = self._of[claim.remote]
        del theirs[token]
        if not theirs:
            del self._of[claim.remote]
        return claim

    def __len__(self) -> int:
        return len(self._open)
