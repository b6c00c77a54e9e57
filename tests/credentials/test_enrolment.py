"""Becoming a node: the request proves the key, the invitation says what is granted."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from swarm_keys import Family, node_of

from lepton_p2p.credentials.bearer import Bearer, read_bearer
from lepton_p2p.credentials.certificates import Holder, Role, depth_of, make_invite, make_process, name_of, now
from lepton_p2p.credentials.enrolment import accept, check_name, grant, read_request, usable_name, write_request
from lepton_p2p.credentials.keys import id_of, new_key
from lepton_p2p.errors import CredentialsRefused


def bearer(holder: Holder) -> Bearer:
    return read_bearer(holder.chain, holder.authority, now())


def csr(subject: list[tuple[x509.ObjectIdentifier, str]], key: object = None, *, ca: bool = False) -> bytes:
    builder = x509.CertificateSigningRequestBuilder()
    builder = builder.subject_name(x509.Name([x509.NameAttribute(oid, text) for oid, text in subject]))
    if ca:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=4), critical=True)
    key = key or new_key()
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.DER)  # type: ignore[arg-type]


USUAL = [
    (NameOID.ORGANIZATION_NAME, "lepton"),
    (NameOID.ORGANIZATIONAL_UNIT_NAME, "node"),
    (NameOID.PSEUDONYM, "laptop"),
]


def test_an_invite_becomes_a_member() -> None:
    family, key = Family(), new_key()
    invite = make_invite(family.issuer, hours=1, may_issue=False)
    request = read_request(write_request("lepton", "laptop", key))
    assert (request.swarm, request.name, id_of(request.key)) == ("lepton", "laptop", id_of(key.public_key()))
    node = accept(grant(family.issuer, bearer(invite), request), key, family.authority.authority)
    assert depth_of(node.certificate) == 0
    assert name_of(node.certificate) == "laptop"
    assert bearer(make_process(node)).node == id_of(key.public_key())


def test_an_issuers_invite_becomes_an_issuer() -> None:
    family, key = Family(), new_key()
    invite = make_invite(family.issuer, hours=1, may_issue=True)
    node = accept(
        grant(family.issuer, bearer(invite), read_request(write_request("lepton", "x", key))), key, invite.authority
    )
    assert depth_of(node.certificate) == depth_of(family.issuer.certificate) - 1 > 0


def test_a_replayed_request_gives_the_same_key_another_certificate_and_nobody_else_anything() -> None:
    family, key = Family(), new_key()
    invite = bearer(make_invite(family.issuer, hours=1, may_issue=False))
    request = write_request("lepton", "laptop", key)
    chains = [grant(family.issuer, invite, read_request(request)) for _ in range(2)]
    assert chains[0][0].public_key() == chains[1][0].public_key() == key.public_key()
    with pytest.raises(CredentialsRefused, match="another key"):
        accept(chains[0], new_key(), family.authority.authority)


def test_a_member_renews_its_own_certificate_with_the_rights_that_it_had() -> None:
    family = Family()
    for node in (family.member, node_of(family.issuer, issues=True)):
        process = bearer(make_process(node))
        request = read_request(write_request("lepton", "renamed", node.key))
        renewed = accept(grant(family.issuer, process, request), node.key, node.authority)
        assert (depth_of(renewed.certificate) > 0) == (depth_of(node.certificate) > 0)
        assert renewed.id == node.id


def test_a_member_gets_no_certificate_for_another_key() -> None:
    family = Family()
    with pytest.raises(CredentialsRefused, match="its own certificate"):
        grant(family.issuer, bearer(family.process), read_request(write_request("lepton", "friend", new_key())))


def test_a_member_without_the_right_grants_nothing() -> None:
    family = Family()
    invite = bearer(make_invite(family.issuer, hours=1, may_issue=False))
    with pytest.raises(CredentialsRefused, match="may not certify"):
        grant(family.member, invite, read_request(write_request("lepton", "laptop", new_key())))


def test_a_request_for_another_swarm_is_refused() -> None:
    family = Family()
    invite = bearer(make_invite(family.issuer, hours=1, may_issue=False))
    with pytest.raises(CredentialsRefused, match="'other', this one is 'lepton'"):
        grant(family.issuer, invite, read_request(write_request("other", "laptop", new_key())))


@pytest.mark.parametrize(
    "request_",
    [
        csr(USUAL, ca=True),
        csr([*USUAL[:1], (NameOID.ORGANIZATIONAL_UNIT_NAME, "authority"), USUAL[2]]),
        csr([*USUAL[:1], (NameOID.ORGANIZATIONAL_UNIT_NAME, "issuer-invite"), USUAL[2]]),
        csr([*USUAL, (NameOID.COMMON_NAME, "f" * 32)]),
        csr([*USUAL, (NameOID.PSEUDONYM, "second")]),
        csr(USUAL[:2]),
        csr([]),
    ],
)
def test_a_request_that_asks_for_more_is_refused(request_: bytes) -> None:
    with pytest.raises(ValueError, match="asks for more"):
        read_request(request_)


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "..", ".ssh", "a b", "a\nb", "", "x" * 65, "ä", "-rf"])
def test_a_name_is_no_path_and_no_line(name: str) -> None:
    with pytest.raises(ValueError, match="a node's name"):
        check_name(name)
    if 0 < len(name) <= 64:
        with pytest.raises(ValueError, match="a node's name"):
            read_request(csr([*USUAL[:2], (NameOID.PSEUDONYM, name)]))


@given(st.text())
def test_any_host_name_makes_a_usable_name(text: str) -> None:
    assert check_name(usable_name(text))


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["rsa", "p384", "ed25519"],
)
def test_keys_of_other_kinds_are_refused(key: object) -> None:
    with pytest.raises(ValueError, match="not a request"):
        read_request(csr(USUAL, key))


def test_a_request_that_was_signed_with_another_key_is_refused() -> None:
    request = bytearray(write_request("lepton", "laptop", new_key()))
    request[-1] ^= 1
    with pytest.raises(ValueError, match=r"not signed|not a request"):
        read_request(bytes(request))


@given(st.binary(max_size=4000))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="request"):
        read_request(data)


def test_an_answer_that_is_not_what_was_asked_for_is_refused() -> None:
    family = Family()
    with pytest.raises(CredentialsRefused):
        accept(make_invite(family.issuer, hours=1, may_issue=False).chain, new_key(), family.authority.authority)
    with pytest.raises(CredentialsRefused):
        accept(Family().member.chain, new_key(), family.authority.authority)
    assert bearer(make_invite(family.issuer, hours=1, may_issue=False)).role is Role.INVITE
