"""Join tokens: one line of text that lets machines into a swarm until it expires.

``lepton1.`` and, in base64url without padding: the invite's private key (32 bytes, big endian), then for the
authority's certificate, the invite's own and those of the nodes above it, each: its length (2 bytes, big endian) and
DER.  About 1.7 kB of text.  It holds the authority's whole certificate and not its fingerprint only, so that the first
byte from the network is verified already, and that one port is enough.
"""

from __future__ import annotations

import base64
import binascii
import re
from datetime import datetime
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec

from lepton_p2p.credentials.bearer import Bearer, from_der, read_bearer, to_der
from lepton_p2p.credentials.certificates import INVITES, Holder, now, role_of
from lepton_p2p.credentials.keys import check_public_key, public_bytes
from lepton_p2p.errors import ConfigError

PREFIX: Final = "lepton1."
MAX_TOKEN: Final = 16_384
"""Characters of a token."""
_KEY_BYTES: Final = 32
_SHAPE = re.compile(r"[A-Za-z0-9_-]+")


def write_token(invite: Holder) -> str:
    """The token with which others can use ``invite``.  Whoever reads it can: it is a secret."""
    data = bytearray(invite.key.private_numbers().private_value.to_bytes(_KEY_BYTES, "big"))
    for der in to_der((invite.authority, *invite.chain)):
        data += len(der).to_bytes(2, "big") + der
    return PREFIX + _encoded(bytes(data))


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def read_token(text: str, at: datetime | None = None) -> Holder:
    """The invite in a token; :class:`ConfigError` if it is none, :class:`CredentialsRefused` if it is not valid now.

    No message ever holds a part of the token.
    """
    text = text.strip()
    if not text.startswith(PREFIX):
        version = re.match(r"lepton(\d+)\.", text)
        if version:
            raise ConfigError(f"this join token is of version {version[1]}: upgrade lepton_p2p on this machine")
        raise ConfigError("this is no join token: copy the whole line that `lepton-peer keys invite` printed")
    try:
        invite = _parse(text)
    except (ValueError, InvalidSignature):
        raise ConfigError("the join token is damaged: copy the whole line again") from None
    read_invite(invite, at or now())
    return invite


def read_invite(invite: Holder, at: datetime) -> Bearer:
    """What ``invite`` allows; :class:`ConfigError` if it is no invite, :class:`CredentialsRefused` if not valid."""
    if role_of(invite.certificate) not in INVITES:
        raise ConfigError("the join token holds something else than an invitation: make a new one")
    return read_bearer(invite.chain, invite.authority, at)


def _parse(text: str) -> Holder:
    body = text.removeprefix(PREFIX)
    if len(text) > MAX_TOKEN or not _SHAPE.fullmatch(body):
        raise ValueError
    try:
        data = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
    except binascii.Error:
        raise ValueError from None
    if _encoded(data) != body:
        raise ValueError
    key = ec.derive_private_key(int.from_bytes(data[:_KEY_BYTES], "big"), ec.SECP256R1())
    rows, at = [], _KEY_BYTES
    while at < len(data):
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        if end > len(data) or end == at + 2:
            raise ValueError
        rows.append(data[at + 2 : end])
        at = end
    authority, *chain = from_der(rows[:1]) + from_der(rows[1:])
    if not chain or public_bytes(key.public_key()) != public_bytes(check_public_key(chain[0].public_key())):
        raise ValueError
    authority.verify_directly_issued_by(authority)
    return Holder(key, tuple(chain), authority)
