"""How a machine becomes a node: it asks with a request (PKCS#10, RFC 2986), an issuer grants a certificate.

The request proves that the asker has the key.  What the certificate allows is for the invitation to say, never for the
request: one that asks for more is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from lepton_p2p.credentials.bearer import Bearer, read_bearer
from lepton_p2p.credentials.certificates import (
    INVITES,
    MAX_NAME,
    Certificate,
    Holder,
    Role,
    certify_node,
    depth_of,
    now,
)
from lepton_p2p.credentials.keys import PrivateKey, PublicKey, check_public_key, id_of
from lepton_p2p.errors import CredentialsRefused

MAX_REQUEST: Final = 2048
"""Bytes of a request in DER; ours have about 300."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_ASKED: Final = {NameOID.ORGANIZATION_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME, NameOID.PSEUDONYM}


@dataclass(frozen=True, slots=True)
class Request:
    """A machine that calls itself ``name`` asks for a certificate of ``key`` in ``swarm``."""

    swarm: str
    name: str
    key: PublicKey


def usable_name(text: str) -> str:
    """``text`` (a host name, say) with what names of nodes do not take replaced."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", text).lstrip("._-")[:MAX_NAME] or "node"


def check_name(text: str) -> str:
    """``text`` if a node may be called so: it is shown, logged, and part of nothing else; ``ValueError`` otherwise."""
    if len(text) > MAX_NAME or not _NAME.fullmatch(text):
        raise ValueError(f"a node's name is 1 to {MAX_NAME} letters, digits, dots, dashes and underscores")
    return text


def write_request(swarm: str, name: str, key: PrivateKey) -> bytes:
    """The request of the machine ``name`` that holds ``key``, signed with it; DER."""
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, swarm),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, Role.NODE.value),
            x509.NameAttribute(NameOID.PSEUDONYM, check_name(name)),
        ]
    )
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def read_request(der: bytes) -> Request:
    """A request from the network; ``ValueError`` unless it is exactly what :func:`write_request` makes."""
    if len(der) > MAX_REQUEST:
        raise ValueError(f"a request has at most {MAX_REQUEST} bytes, this one {len(der)}")
    try:
        found = x509.load_der_x509_csr(der)
        valid = found.is_signature_valid
        key = check_public_key(found.public_key())
        more = bool(len(found.extensions)) or bool(len(found.attributes))
        rows = {attribute.oid: str(attribute.value) for attribute in found.subject}
        size = len(list(found.subject))
    except Exception:
        raise ValueError("not a request for a certificate") from None
    if not valid:
        raise ValueError("the request is not signed with the key that it names")
    if more or size != len(_ASKED) or set(rows) != _ASKED or rows[NameOID.ORGANIZATIONAL_UNIT_NAME] != Role.NODE:
        raise ValueError("the request asks for more than to be a node: what a node may do, the invitation says")
    return Request(rows[NameOID.ORGANIZATION_NAME], check_name(rows[NameOID.PSEUDONYM]), key)


def grant(issuer: Holder, asker: Bearer, request: Request, *, at: datetime | None = None) -> tuple[Certificate, ...]:
    """The chain that ``issuer`` gives to ``asker``: a new node for an invite, a longer life for a node's own process.

    Never with more rights than ``asker`` has.  Raises :class:`CredentialsRefused`.
    """
    if request.swarm != issuer.swarm:
        raise CredentialsRefused(f"the request is for swarm {request.swarm!r}, this one is {issuer.swarm!r}")
    if asker.role in INVITES:
        may_issue = asker.role is Role.ISSUER_INVITE
    elif id_of(request.key) == asker.node:
        may_issue = asker.may_issue
    else:
        raise CredentialsRefused("a member may renew its own certificate, not get one for another key: invite it")
    return certify_node(issuer, request.key, request.name, may_issue=may_issue, at=at)


def accept(
    chain: Sequence[Certificate], key: PrivateKey, authority: Certificate, *, at: datetime | None = None
) -> Holder:
    """The credentials of the new node; :class:`CredentialsRefused` if the answer is not what was asked for."""
    bearer = read_bearer(chain, authority, at or now())
    if bearer.role is not Role.NODE or bearer.id != id_of(key.public_key()) or depth_of(bearer.chain[0]) < 0:
        raise CredentialsRefused("the issuer answered with a certificate for another key or of another kind")
    return Holder(key, bearer.chain, authority)
