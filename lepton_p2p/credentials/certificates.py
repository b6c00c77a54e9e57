"""The certificates of a swarm (X.509, RFC 5280): who signs whom, and for how long.

The subject says what a certificate is: O is the swarm, OU the role, CN the id of its key, pseudonym a node's name.
How far a node may certify others is its path length: 0 for its own processes only; each level above may certify nodes
with less.  TLS enforces it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from lepton_p2p.credentials.keys import PrivateKey, PublicKey, id_of, new_key
from lepton_p2p.errors import CredentialsRefused

Certificate = x509.Certificate

SERVER_NAME: Final = "peer.lepton"
"""What every process is called in TLS: which one it is, its key says."""
CLOCK_SKEW: Final = timedelta(minutes=10)
"""Certificates are valid from so long before they were made: the clocks of machines differ."""
AUTHORITY_DEPTH: Final = 4
"""Path length of the authority: issuers may invite issuers, three deep."""
AUTHORITY_DAYS: Final = 3650
NODE_DAYS: Final = 365
MAX_NAME: Final = 64
"""Characters of a swarm's or a node's name: what X.520 allows."""


class Role(StrEnum):
    """What a certificate is."""

    AUTHORITY = "authority"
    NODE = "node"
    PROCESS = "process"
    INVITE = "invite"
    """Good for one thing: to become a node."""
    ISSUER_INVITE = "issuer-invite"
    """The same, for a node that may certify others."""


INVITES: Final = (Role.INVITE, Role.ISSUER_INVITE)


def now() -> datetime:
    """The time to which certificates are held."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, repr=False)
class Holder:
    """A certificate and its private key.  chain: own certificate first, then those above it up to the authority's,
    which is not in it (so it is empty for the authority itself).
    """

    key: PrivateKey
    chain: tuple[Certificate, ...]
    authority: Certificate

    @property
    def certificate(self) -> Certificate:
        return self.chain[0] if self.chain else self.authority

    @property
    def swarm(self) -> str:
        return swarm_of(self.authority)

    @property
    def id(self) -> str:
        return id_of(self.key.public_key())

    @property
    def depth(self) -> int:
        """How many levels of nodes may be below; 0: only processes."""
        return depth_of(self.certificate)

    def __repr__(self) -> str:
        return f"Holder({role_of(self.certificate)} {self.id})"  # never the key


def found_authority(swarm: str, *, days: float = AUTHORITY_DAYS, at: datetime | None = None) -> Holder:
    """A new authority for ``swarm`` (1 to 64 characters)."""
    key = new_key()
    subject = _subject(swarm, Role.AUTHORITY, key.public_key())
    authority = _sign(subject, key.public_key(), subject, key, days=days, at=at or now(), depth=AUTHORITY_DEPTH)
    return Holder(key, (), authority)


def certify_node(
    issuer: Holder,
    key: PublicKey,
    name: str,
    *,
    may_issue: bool,
    days: float = NODE_DAYS,
    at: datetime | None = None,
) -> tuple[Certificate, ...]:
    """The chain of a node with the public ``key``; :class:`CredentialsRefused` if ``issuer`` has no right to it."""
    if issuer.depth < 1 or (may_issue and issuer.depth < 2):
        raise CredentialsRefused("this node may not certify " + ("issuers" if issuer.depth == 1 else "others"))
    subject = _subject(issuer.swarm, Role.NODE, key, name)
    depth = issuer.depth - 1 if may_issue else 0
    return (_issue(issuer, subject, key, days=days, at=at or now(), depth=depth), *issuer.chain)


def make_process(node: Holder, *, key: PrivateKey | None = None, at: datetime | None = None) -> Holder:
    """Credentials of one process under ``node``, valid as long as the node's; the key lives in memory only.

    key: of a process that has one already, whose node has a newer certificate.
    """
    key = key or new_key()
    subject = _subject(node.swarm, Role.PROCESS, key.public_key())
    leaf = _issue(node, subject, key.public_key(), days=AUTHORITY_DAYS, at=at or now())
    return Holder(key, (leaf, *node.chain), node.authority)


def make_invite(issuer: Holder, *, hours: float, may_issue: bool, at: datetime | None = None) -> Holder:
    """Credentials with which machines may become nodes (that may certify others, if ``may_issue``) for ``hours``."""
    if issuer.depth < 1 or (may_issue and issuer.depth < 2):
        what = "others as issuers" if issuer.depth == 1 else "others"
        raise CredentialsRefused(f"this node may not invite {what}: ask whoever made the swarm's keys")
    key = new_key()
    subject = _subject(issuer.swarm, Role.ISSUER_INVITE if may_issue else Role.INVITE, key.public_key())
    leaf = _issue(issuer, subject, key.public_key(), days=hours / 24, at=at or now())
    return Holder(key, (leaf, *issuer.chain), issuer.authority)


def role_of(certificate: Certificate) -> Role | None:
    """The role that the subject names; None if it names none of ours."""
    text = _attribute(certificate, NameOID.ORGANIZATIONAL_UNIT_NAME)
    return Role(text) if text in set(Role) else None


def swarm_of(certificate: Certificate) -> str:
    return _attribute(certificate, NameOID.ORGANIZATION_NAME)


def name_of(certificate: Certificate) -> str:
    """The name of a node; empty for others."""
    return _attribute(certificate, NameOID.PSEUDONYM)


def depth_of(certificate: Certificate) -> int:
    """The path length: levels of nodes that may be below; -1 for what certifies nothing."""
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, ValueError):
        return -1
    return constraints.path_length or 0 if constraints.ca else -1


def _attribute(certificate: Certificate, oid: x509.ObjectIdentifier) -> str:
    found = certificate.subject.get_attributes_for_oid(oid)
    return str(found[0].value) if len(found) == 1 else ""


def _subject(swarm: str, role: Role, key: PublicKey, name: str = "") -> x509.Name:
    parts = [
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, swarm),
        x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role.value),
        x509.NameAttribute(NameOID.COMMON_NAME, id_of(key)),
    ]
    return x509.Name([*parts, x509.NameAttribute(NameOID.PSEUDONYM, name)] if name else parts)


def _issue(
    issuer: Holder, subject: x509.Name, key: PublicKey, *, days: float, at: datetime, depth: int | None = None
) -> Certificate:
    above = issuer.certificate
    return _sign(
        subject, key, above.subject, issuer.key, days=days, at=at, depth=depth, latest=above.not_valid_after_utc
    )


def _sign(
    subject: x509.Name,
    key: PublicKey,
    issuer: x509.Name,
    signing: PrivateKey,
    *,
    days: float,
    at: datetime,
    depth: int | None,
    latest: datetime | None = None,
) -> Certificate:
    """``depth`` None: certifies nothing.  Nothing outlives what signed it (``latest``)."""
    end = at + timedelta(days=days)
    certifies = depth is not None
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - CLOCK_SKEW)
        .not_valid_after(end if latest is None else min(end, latest))
        .add_extension(x509.BasicConstraints(ca=certifies, path_length=depth), critical=True)
        .add_extension(_usage(certifies), critical=True)
    )
    if not certifies:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(SERVER_NAME)]), critical=False)
    return builder.sign(signing, hashes.SHA256())


def _usage(certifies: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=certifies,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
