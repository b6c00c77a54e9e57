"""Signatures of membership claims: what exactly a process signs when it says something of itself or of another.

A claim is bound to the swarm (the id of its authority's key), the kind, the subject, its address and incarnation, and
to the accuser if there is one; so it means one thing, in one swarm.  ECDSA on P-256 with SHA-256, 70 to 72 bytes.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Final

from lepton_p2p.credentials.keys import PrivateKey, PublicKey, sign, signed_by

MAX_SIGNATURE: Final = 72
"""Bytes of a signature; an accusation has one more, its kind."""
_CONTEXT: Final = "lepton claim 1"


class Kind(StrEnum):
    """What is claimed: the first two by the subject, the others by an accuser."""

    ALIVE = "alive"
    LEFT = "left"
    SUSPECT = "suspect"
    DEAD = "dead"


def claim(swarm: str, kind: Kind, subject: str, address: str, incarnation: int, accuser: str = "") -> bytes:
    """What is signed: every part with its length (32 bits) before it, so that no two claims have the same bytes."""
    parts = (_CONTEXT, swarm, kind, subject, address, str(incarnation), accuser)
    encoded = [part.encode() for part in parts]
    return b"".join(len(part).to_bytes(4, "big") + part for part in encoded)


def sign_claim(key: PrivateKey, written: bytes) -> bytes:
    """The signature of a process over what :func:`claim` wrote."""
    return sign(key, written)


def claim_holds(key: PublicKey, written: bytes, signature: bytes) -> bool:
    """Whether the holder of ``key`` signed what :func:`claim` wrote; takes a tenth of a millisecond."""
    return 0 < len(signature) <= MAX_SIGNATURE and signed_by(key, signature, written)


def fingerprint(signer: str, written: bytes, signature: bytes) -> bytes:
    """Under which name a judgement is remembered: 16 bytes, different for every signer, claim and signature."""
    parts = (signer.encode(), written, signature)
    return hashlib.blake2b(b"".join(len(p).to_bytes(4, "big") + p for p in parts), digest_size=16).digest()
