"""Who may sign whom: every chain that breaks the rules is refused, and the reason is said."""

from __future__ import annotations

from datetime import timedelta

import pytest
from swarm_keys import Family, forged, node_of

from lepton_p2p.credentials.bearer import MAX_CERTIFICATE, MAX_CHAIN, from_der, read_bearer, to_der
from lepton_p2p.credentials.certificates import (
    CLOCK_SKEW,
    Holder,
    Role,
    _issue,
    _subject,
    certify_node,
    depth_of,
    found_authority,
    make_invite,
    make_process,
    now,
)
from lepton_p2p.credentials.keys import id_of, new_key
from lepton_p2p.errors import CredentialsRefused


def refused(holder: Holder, authority: Holder, *, after: timedelta = timedelta(0)) -> str:
    with pytest.raises(CredentialsRefused) as caught:
        read_bearer(holder.chain, authority.authority, now() + after)
    return str(caught.value)


def leaf(signer: Holder, role: Role, *, depth: int | None = None) -> Holder:
    """What ``signer`` can sign, whether it may or not."""
    key = new_key()
    subject = _subject(signer.swarm, role, key.public_key())
    certificate = _issue(signer, subject, key.public_key(), days=1, at=now(), depth=depth)
    return Holder(key, (certificate, *signer.chain), signer.authority)


def test_a_process_is_known_by_the_hash_of_its_key_and_belongs_to_its_node() -> None:
    family = Family()
    bearer = read_bearer(family.process.chain, family.authority.authority, now())
    assert bearer.role is Role.PROCESS
    assert bearer.id == id_of(family.process.key.public_key()) == family.process.id
    assert len(bearer.id) == 32
    assert bearer.node == family.member.id
    assert bearer.nodes == (family.member.id, family.issuer.id)
    assert (bearer.swarm, bearer.name) == ("lepton", "member")
    assert not bearer.may_issue


def test_two_processes_of_a_node_have_different_ids() -> None:
    member = Family().member
    assert make_process(member).id != make_process(member).id


def test_the_order_of_the_certificates_above_does_not_matter_and_others_among_them_change_nothing() -> None:
    family, stranger = Family(), Family()
    own, *above = family.process.chain
    shown = (own, stranger.member.certificate, *reversed(above))
    assert read_bearer(shown, family.authority.authority, now()).nodes == (family.member.id, family.issuer.id)


def test_what_another_swarm_signed_is_refused_by_name() -> None:
    assert "swarm 'other', not of 'lepton'" in refused(Family("other").process, Family().authority)
    assert "not issued by the authority of swarm 'lepton'" in refused(Family().process, Family().authority)


def test_expired_and_not_yet_valid_are_told_apart() -> None:
    family = Family()
    late = node_of(family.authority, at=now() - timedelta(days=2), days=1)
    assert "the node certificate has expired on" in refused(late, family.authority)
    early = node_of(family.authority, at=now() + timedelta(days=1))
    assert "is a clock wrong?" in refused(early, family.authority)


def test_clocks_may_differ_by_some_minutes() -> None:
    family = Family()
    at = now() - CLOCK_SKEW + timedelta(minutes=1)
    assert read_bearer(family.process.chain, family.authority.authority, at).id == family.process.id


def test_nothing_outlives_what_signed_it() -> None:
    family = Family()
    short = node_of(family.authority, issues=True, days=1)
    below = node_of(short, days=300)
    assert below.certificate.not_valid_after_utc == short.certificate.not_valid_after_utc
    assert make_process(below).certificate.not_valid_after_utc <= short.certificate.not_valid_after_utc


def test_a_member_certifies_processes_and_nobody_else() -> None:
    family = Family()
    with pytest.raises(CredentialsRefused):
        certify_node(family.member, new_key().public_key(), "friend", may_issue=False)
    with pytest.raises(CredentialsRefused):
        make_invite(family.member, hours=1, may_issue=False)
    # and if it does so all the same, nobody believes it
    refused(leaf(family.member, Role.NODE, depth=0), family.authority)
    assert "may not invite" in refused(leaf(family.member, Role.INVITE), family.authority)
    refused(make_process(leaf(family.member, Role.NODE, depth=0)), family.authority)


def test_an_issuer_certifies_members_and_a_number_of_generations_of_issuers() -> None:
    authority = found_authority("lepton")
    issuer, generations = authority, 0
    while issuer.depth > 1:
        issuer, generations = node_of(issuer, issues=True), generations + 1
        assert read_bearer(make_process(node_of(issuer)).chain, authority.authority, now()).role is Role.PROCESS
    assert generations == 3
    with pytest.raises(CredentialsRefused, match="may not certify issuers"):
        node_of(issuer, issues=True)
    with pytest.raises(CredentialsRefused, match="may not invite others as issuers"):
        make_invite(issuer, hours=1, may_issue=True)
    refused(leaf(issuer, Role.ISSUER_INVITE), authority)
    refused(node_of(leaf(issuer, Role.NODE, depth=3)), authority)


def test_a_process_signs_nothing() -> None:
    family = Family()
    refused(leaf(family.process, Role.PROCESS), family.authority)
    refused(leaf(family.process, Role.INVITE), family.authority)
    assert depth_of(family.process.certificate) == -1


@pytest.mark.parametrize("role", [Role.AUTHORITY, Role.NODE])
def test_a_leaf_cannot_call_itself_what_only_a_certifying_certificate_is(role: Role) -> None:
    family = Family()
    assert "no role" in refused(leaf(family.issuer, role), family.authority)


def test_what_certifies_is_a_node_and_says_so() -> None:
    family = Family()
    odd = leaf(family.issuer, Role.INVITE, depth=0)
    assert "signed by somebody who is no node" in refused(make_process(odd), family.authority)


def test_the_authority_makes_no_processes() -> None:
    authority = found_authority("lepton")
    assert "no role" in refused(leaf(authority, Role.PROCESS), authority)


def test_a_changed_byte_is_seen() -> None:
    family = Family()
    chain = (forged(family.process.chain[0]), *family.process.chain[1:])
    refused(Holder(family.process.key, chain, family.authority.authority), family.authority)


def test_chains_have_bounds() -> None:
    family = Family()
    too_long = family.process.chain * 3
    assert "1 to" in refused(Holder(family.process.key, too_long, family.authority.authority), family.authority)
    refused(Holder(family.process.key, (), family.authority.authority), family.authority)
    with pytest.raises(ValueError, match="at most"):
        from_der([b""] * (MAX_CHAIN + 1))
    with pytest.raises(ValueError, match="at most"):
        from_der([bytes(MAX_CERTIFICATE + 1)])
    with pytest.raises(ValueError, match="not a certificate"):
        from_der([b"no"])
    assert from_der(to_der(family.process.chain)) == family.process.chain


def test_a_private_key_is_in_no_text() -> None:
    process = Family().process
    assert str(process.key.private_numbers().private_value) not in repr(process)
    assert repr(process) == f"Holder(process {process.id})"
