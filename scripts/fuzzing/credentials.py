"""What strangers and members hand in to be let in: tokens, requests, certificates, revocations."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from fuzzing.target import Target, refusing
from lepton_p2p.credentials.bearer import from_der, read_bearer, to_der
from lepton_p2p.credentials.certificates import Holder, certify_node, found_authority, make_invite, make_process, now
from lepton_p2p.credentials.enrolment import read_request, write_request
from lepton_p2p.credentials.keys import new_key
from lepton_p2p.credentials.revocations import read_statement, revoke
from lepton_p2p.credentials.tokens import read_token, write_token
from lepton_p2p.errors import ConfigError, CredentialsRefused
from lepton_p2p.proto.lepton.v1 import credentials_pb2
from lepton_p2p.transport.wire_credentials import enrolled_from_wire, revocations_from_wire

_AUTHORITY = found_authority("fuzzed")
_KEY = new_key()
_REQUEST = write_request("fuzzed", "node", _KEY)
_STATEMENT = revoke(_AUTHORITY, None, "a" * 32, "lost").encoded


def statement(data: bytes) -> None:
    """A revocation: what is accepted is what the authority signed, byte by byte."""
    try:
        found = read_statement(data, _AUTHORITY.authority)
    except CredentialsRefused:
        return
    assert (found.node, found.reason) == ("a" * 32, "lost")


def chain(data: bytes) -> None:
    """Certificates, the first of which claims to be a process of a node of the swarm; nobody signed anything here."""
    rows, start = [], 0
    while start + 2 <= len(data):
        size = int.from_bytes(data[start : start + 2])
        rows.append(data[start + 2 : start + 2 + size])
        start += 2 + size
    try:
        read_bearer(from_der(rows), _AUTHORITY.authority, now())
    except (ValueError, CredentialsRefused):
        return
    raise AssertionError("a chain that the authority did not sign was accepted")


def _foreign_chain() -> bytes:
    """A proper chain, of another authority."""
    other = found_authority("fuzzed")
    key = new_key()
    node = Holder(key, certify_node(other, key.public_key(), "node", may_issue=False), other.authority)
    return b"".join(len(row).to_bytes(2) + row for row in to_der(make_process(node).chain))


TARGETS = (
    Target(
        "credentials.token",
        refusing(lambda data: read_token(data.decode("utf-8", "replace")), ConfigError, CredentialsRefused),
        (write_token(make_invite(_AUTHORITY, hours=24 * 365, may_issue=False)).encode(),),
    ),
    Target("credentials.request", refusing(read_request, ValueError, CredentialsRefused), (_REQUEST,)),
    Target("credentials.statement", statement, (_STATEMENT,)),
    Target("credentials.chain", chain, (_foreign_chain(),)),
    Target(
        "credentials.enrolled",
        refusing(lambda data: enrolled_from_wire(credentials_pb2.EnrolReply.FromString(data)), DecodeError, ValueError),
        (credentials_pb2.EnrolReply(issuers=["127.0.0.1:7700"]).SerializeToString(),),
    ),
    Target(
        "credentials.revocations",
        refusing(
            lambda data: revocations_from_wire(credentials_pb2.Revocations.FromString(data)), DecodeError, ValueError
        ),
        (credentials_pb2.Revocations(statements=[_STATEMENT]).SerializeToString(),),
    ),
)
