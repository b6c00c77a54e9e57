"""A small swarm's credentials, made in memory."""

from __future__ import annotations

from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from lepton_p2p.credentials.certificates import (
    Certificate,
    Holder,
    certify_node,
    found_authority,
    make_process,
)
from lepton_p2p.credentials.keys import new_key


def node_of(
    issuer: Holder, name: str = "node", *, issues: bool = False, at: datetime | None = None, days: float = 365
) -> Holder:
    """A node that ``issuer`` certified."""
    key = new_key()
    return Holder(
        key, certify_node(issuer, key.public_key(), name, may_issue=issues, at=at, days=days), issuer.authority
    )


class Family:
    """authority -> issuer -> member -> process."""

    def __init__(self, swarm: str = "lepton") -> None:
        self.authority = found_authority(swarm)
        self.issuer = node_of(self.authority, "issuer", issues=True)
        self.member = node_of(self.issuer, "member")
        self.process = make_process(self.member)


def forged(certificate: Certificate) -> Certificate:
    """``certificate`` with one byte of its signature changed."""
    der = bytearray(certificate.public_bytes(Encoding.DER))
    der[-1] ^= 1
    return x509.load_der_x509_certificate(bytes(der))
