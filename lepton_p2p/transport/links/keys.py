"""How the two ends of a sealed link come to its keys: ephemeral X25519 over the control channel, then HKDF.

Each side makes a key pair for this one link and tells the other its public half (its *share*) in the call that asks
for the ticket.  That channel is mutually authenticated, so each knows whose share it has; and as only shares travel,
one who records the call and learns every long-lived key later still cannot open the link.

    Z    = X25519(own private key, the other's share)                                   (RFC 7748)
    PRK  = HKDF-Extract(salt = the ticket's token, Z)                                   (RFC 5869, SHA-256)
    K(d) = HKDF-Expand(PRK, d || bond || share of the connector || share of the acceptor)

d is the direction; the bond is everything on which the two must agree, each with its length before it: what this is
(with a version), the swarm, both peer ids, the purpose, the token.  Two who differ in one bit of it share no key.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from lepton_p2p.identity import PeerId
from lepton_p2p.transport.links.purpose import Purpose
from lepton_p2p.transport.links.seal import KEY_BYTES, Opener, Sealer

SHARE_BYTES = 32
_WHAT = b"lepton link 1"
_LENGTH = struct.Struct("!I")
_TO_ACCEPTOR, _TO_CONNECTOR = b"to the acceptor", b"to the connector"


@dataclass(frozen=True, slots=True)
class Bond:
    """What both ends of a link know of it and must agree on.  connector None: a client, which has no peer id."""

    swarm: str
    connector: PeerId | None
    acceptor: PeerId
    purpose: Purpose
    token: bytes

    def encode(self) -> bytes:
        """Injective: no two bonds give the same bytes."""
        purpose = bytes((self.purpose,))
        texts = (self.swarm.encode(), (self.connector or "").encode(), self.acceptor.encode())
        return b"".join(_LENGTH.pack(len(part)) + part for part in (_WHAT, *texts, purpose, self.token))


class LinkKeys:
    """The first secret of each direction; good for making the ends of one link, once."""

    def __init__(self, to_acceptor: bytearray, to_connector: bytearray) -> None:
        self._to_acceptor, self._to_connector = to_acceptor, to_connector

    def connector(self) -> tuple[Sealer, Opener]:
        """The ends of the side that connects; they take the secrets over."""
        return Sealer(self._to_acceptor), Opener(self._to_connector)

    def acceptor(self) -> tuple[Sealer, Opener]:
        """The ends of the side that accepts; they take the secrets over."""
        return Sealer(self._to_connector), Opener(self._to_acceptor)

    def wipe(self) -> None:
        """The link will not be opened."""
        for secret in (self._to_acceptor, self._to_connector):
            secret[:] = bytes(len(secret))


class KeyShare:
    """One side's key pair for one link; ``public`` is what the other side is told."""

    def __init__(self) -> None:
        self._private: X25519PrivateKey | None = X25519PrivateKey.generate()
        self.public = self._private.public_key().public_bytes_raw()

    def as_connector(self, theirs: bytes, bond: Bond) -> LinkKeys:
        """The keys of the link with the acceptor whose share is ``theirs``; ``ValueError`` if that is none.

        The private key is dropped: a share is good once.
        """
        return self._agree(theirs, bond, self.public + theirs)

    def as_acceptor(self, theirs: bytes, bond: Bond) -> LinkKeys:
        """As :meth:`as_connector`, on the other side."""
        return self._agree(theirs, bond, theirs + self.public)

    def _agree(self, theirs: bytes, bond: Bond, shares: bytes) -> LinkKeys:
        private, self._private = self._private, None
        if private is None:
            raise ValueError("a share is good for one link")
        if len(theirs) != SHARE_BYTES:
            raise ValueError(f"a share has {SHARE_BYTES} bytes, not {len(theirs)}")
        try:
            # Points of small order, which would make a secret that everybody knows, are refused there (RFC 7748, 6.1).
            common = private.exchange(X25519PublicKey.from_public_bytes(theirs))
        except ValueError:
            raise ValueError("a share that agrees on no secret") from None
        extracted = HKDF.extract(SHA256(), bond.token, common)
        about = bond.encode() + shares
        return LinkKeys(_expand(extracted, _TO_ACCEPTOR + about), _expand(extracted, _TO_CONNECTOR + about))


def _expand(extracted: bytes, info: bytes) -> bytearray:
    secret = bytearray(KEY_BYTES)
    HKDFExpand(SHA256(), KEY_BYTES, info).derive_into(extracted, secret)
    return secret
