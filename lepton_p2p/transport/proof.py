"""Which process answers: a signature over the caller's nonce.

TLS proves that the other end is some process of the swarm, for certificates name no hosts.  A call that is meant for
one peer carries a fresh nonce; the answer carries the public key, of which the peer's id is the hash, and a signature
over the nonce and both ids.  A member that sits at another's address cannot pass the question on: the other would sign
its id as the caller's, which TLS proved to it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Final

from lepton_p2p.credentials.certificates import Holder
from lepton_p2p.credentials.keys import id_of, public_bytes, read_public, sign, signed_by
from lepton_p2p.errors import SwarmUnreachable
from lepton_p2p.identity import PeerId, short

NONCE_KEY: Final = "lepton-nonce-bin"
PROOF_KEY: Final = "lepton-proof-bin"
NONCE_BYTES: Final = 16
_PUBLIC_BYTES: Final = 91
_CONTEXT: Final = b"lepton answer 1\0"

Metadata = Iterable[tuple[str, str | bytes]]


def new_nonce() -> bytes:
    return secrets.token_bytes(NONCE_BYTES)


def prove(holder: Holder, caller: str, metadata: Metadata) -> tuple[tuple[str, str | bytes], ...]:
    """The trailing metadata that prove to ``caller`` that ``holder`` answers; none if it did not ask."""
    nonce = dict(metadata).get(NONCE_KEY)
    if not isinstance(nonce, bytes) or len(nonce) != NONCE_BYTES:
        return ()
    signature = sign(holder.key, _signed(nonce, caller, holder.id))
    return ((PROOF_KEY, public_bytes(holder.key.public_key()) + signature),)


def check_proof(metadata: Metadata, nonce: bytes, caller: str, expected: PeerId, where: str) -> None:
    """Raise :class:`SwarmUnreachable` unless ``expected`` has answered (another process is there now, perhaps)."""
    proof = dict(metadata).get(PROOF_KEY)
    try:
        if not isinstance(proof, bytes):
            raise ValueError
        key = read_public(proof[:_PUBLIC_BYTES])
        found = id_of(key)
        valid = signed_by(key, proof[_PUBLIC_BYTES:], _signed(nonce, caller, found))
    except ValueError:
        valid, found = False, ""
    if not valid or found != expected:
        who = f"peer {short(found)}" if valid else "somebody who proves nothing"
        raise SwarmUnreachable(f"at {where} {who} answers, not {short(expected)}")


def _signed(nonce: bytes, caller: str, answers: str) -> bytes:
    return _CONTEXT + nonce + caller.encode("ascii") + answers.encode("ascii")
