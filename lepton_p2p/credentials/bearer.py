"""Reading a chain of certificates: whose it is, and what it allows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.verification import Criticality, ExtensionPolicy, PolicyBuilder, Store, VerificationError

from lepton_p2p.credentials.certificates import (
    AUTHORITY_DEPTH,
    INVITES,
    Certificate,
    Role,
    depth_of,
    name_of,
    role_of,
    swarm_of,
)
from lepton_p2p.credentials.keys import check_public_key, id_of
from lepton_p2p.errors import CredentialsRefused

MAX_CERTIFICATE: Final = 2048
"""Bytes of one certificate in DER; ours have about 500."""
MAX_CHAIN: Final = AUTHORITY_DEPTH + 2
"""Certificates of a chain without the authority's: a leaf, and nodes that certified each other."""

_ANY: Final = ExtensionPolicy.permit_all()
_CERTIFIES: Final = _ANY.require_present(x509.BasicConstraints, Criticality.CRITICAL, None)


@dataclass(frozen=True, slots=True)
class Bearer:
    """What a valid chain says of the one who holds the key of its first certificate.

    id: of that key; a process's peer id.  nodes: ids of the nodes above, its own first (for an invite: who gave it).
    name: of its own node.  expires: when the first certificate of the chain does.
    """

    role: Role
    swarm: str
    id: str
    nodes: tuple[str, ...]
    name: str
    expires: datetime
    chain: tuple[Certificate, ...]

    @property
    def node(self) -> str:
        """The id of the node that it belongs to; an invite belongs to itself."""
        return self.nodes[0] if self.role is Role.PROCESS else self.id

    @property
    def may_issue(self) -> bool:
        """Whether its node may certify other nodes."""
        at = 0 if self.role is Role.NODE else 1
        return len(self.chain) > at and depth_of(self.chain[at]) > 0


def read_bearer(chain: Sequence[Certificate], authority: Certificate, at: datetime) -> Bearer:
    """Verify ``chain`` (first certificate first, the rest in any order) up to ``authority`` at the time ``at``.

    Raises :class:`CredentialsRefused` for whatever is wrong with it.
    """
    if not 0 < len(chain) <= MAX_CHAIN:
        raise CredentialsRefused(f"a chain has 1 to {MAX_CHAIN} certificates, not {len(chain)}")
    path = _verified(chain, authority, at)
    try:
        ids = [id_of(check_public_key(certificate.public_key())) for certificate in path]
    except ValueError as error:
        raise CredentialsRefused(f"the certificate has a strange key: {error}") from None
    role, above = role_of(path[0]), path[1:]
    if any(role_of(certificate) is not Role.NODE for certificate in above):
        raise CredentialsRefused("the certificate was signed by somebody who is no node")
    # Path lengths (RFC 5280, 4.2.1.9) do not bind the last certificate of a path: a member could make issuers.
    depths = [depth_of(certificate) for certificate in (*path, authority)]
    if any(below >= 0 and below >= over for below, over in itertools.pairwise(depths)):
        raise CredentialsRefused("the certificate was signed by a node that may not certify others")
    if role is Role.PROCESS and above:
        pass
    elif role in INVITES:
        if above and depth_of(above[0]) < (2 if role is Role.ISSUER_INVITE else 1):
            raise CredentialsRefused("the invitation was made by a node that may not invite")
    elif role is not Role.NODE or depth_of(path[0]) < 0:
        raise CredentialsRefused("the certificate has no role in a swarm")
    assert role is not None
    expires = min(certificate.not_valid_after_utc for certificate in (*path, authority))
    name = name_of(path[0] if role is Role.NODE or not above else above[0])
    return Bearer(role, swarm_of(authority), ids[0], tuple(ids[1:]), name, expires, tuple(path))


def _verified(chain: Sequence[Certificate], authority: Certificate, at: datetime) -> list[Certificate]:
    """The path that leads from the first of ``chain`` to ``authority``, without that."""
    verifier = (
        PolicyBuilder()
        .store(Store([authority]))
        .time(at.replace(tzinfo=None))
        .max_chain_depth(MAX_CHAIN)
        .extension_policies(ca_policy=_CERTIFIES, ee_policy=_ANY)
        .build_client_verifier()
    )
    try:
        return list(verifier.verify(chain[0], list(chain[1:])).chain)[:-1]
    except (VerificationError, ValueError):
        raise CredentialsRefused(_what_is_wrong(chain, authority, at)) from None


def _what_is_wrong(chain: Sequence[Certificate], authority: Certificate, at: datetime) -> str:
    """Why verification failed, for people; the likeliest reasons first."""
    for certificate in (*chain, authority):
        what = role_of(certificate) or "unknown"
        if at > certificate.not_valid_after_utc:
            return f"the {what} certificate has expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
        if at < certificate.not_valid_before_utc:
            since = f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
            return f"the {what} certificate is valid from {since} on only: is a clock wrong?"
    theirs, ours = swarm_of(chain[0]), swarm_of(authority)
    if theirs != ours:
        return f"the certificate is of swarm {theirs!r}, not of {ours!r}"
    return f"the certificate was not issued by the authority of swarm {ours!r}, or not by the rules"


def to_der(chain: Sequence[Certificate]) -> tuple[bytes, ...]:
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in chain)


def to_pem(chain: Sequence[Certificate]) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain)


def from_der(rows: Sequence[bytes]) -> tuple[Certificate, ...]:
    """Certificates from the network; ``ValueError`` for too many, too large ones, and what is none."""
    if len(rows) > MAX_CHAIN:
        raise ValueError(f"a chain has at most {MAX_CHAIN} certificates, this one {len(rows)}")
    for row in rows:
        if len(row) > MAX_CERTIFICATE:
            raise ValueError(f"a certificate has at most {MAX_CERTIFICATE} bytes, this one {len(row)}")
    return _read_all(lambda: [x509.load_der_x509_certificate(row) for row in rows])


def from_pem(text: bytes) -> tuple[Certificate, ...]:
    """Certificates as TLS got them; ``ValueError`` for what is none."""
    return _read_all(lambda: x509.load_pem_x509_certificates(text))


def _read_all(load: Callable[[], list[Certificate]]) -> tuple[Certificate, ...]:
    """Everything in them is read now: the library does so when it is asked, and would complain there."""
    try:
        certificates = load()
        for certificate in certificates:
            _ = certificate.subject, certificate.issuer, certificate.extensions
            check_public_key(certificate.public_key())
    except Exception:
        raise ValueError("not a certificate of a swarm") from None
    return tuple(certificates)
