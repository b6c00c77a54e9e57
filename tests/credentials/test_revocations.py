"""Revocations: who may make one, and that all who heard the same ones agree, in whatever order they came."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from swarm_keys import Family, node_of

from lepton_p2p.credentials import revocations
from lepton_p2p.credentials.bearer import Bearer, read_bearer
from lepton_p2p.credentials.certificates import (
    Certificate,
    Holder,
    Role,
    _issue,
    _subject,
    certify_node,
    make_invite,
    make_process,
    now,
)
from lepton_p2p.credentials.revocations import Revocations, Statement, read_statement, revoke
from lepton_p2p.errors import CredentialsRefused

FAMILY = Family()
AUTHORITY = FAMILY.authority.authority
STATEMENTS = [revoke(FAMILY.authority, None, f"{number:032x}", "lost") for number in range(6)]


def bearer(holder: Holder) -> Bearer:
    return read_bearer(holder.chain, holder.authority, now())


def by_issuer(issuer: Holder, node: Holder) -> Statement:
    return revoke(issuer, node.certificate, node.id, "stolen")


def test_the_authority_revokes_anybody() -> None:
    known = Revocations(AUTHORITY)
    assert known.against(bearer(FAMILY.process)) is None
    (news,) = known.add([revoke(FAMILY.authority, None, FAMILY.member.id, "stolen").encoded])
    assert (news.node, news.reason) == (FAMILY.member.id, "stolen")
    assert known.against(bearer(FAMILY.process)) == known.against(bearer(FAMILY.member)) == news
    assert known.against(bearer(make_process(FAMILY.issuer))) is None


def test_what_a_revoked_node_certified_is_revoked_with_it() -> None:
    known = Revocations(AUTHORITY, [revoke(FAMILY.authority, None, FAMILY.issuer.id, "stolen").encoded])
    assert known.against(bearer(FAMILY.process)) is not None
    assert known.against(bearer(make_invite(FAMILY.issuer, hours=1, may_issue=False))) is not None
    assert known.against(bearer(make_process(node_of(FAMILY.authority)))) is None


def test_an_invite_can_be_revoked() -> None:
    invite = make_invite(FAMILY.issuer, hours=1, may_issue=False)
    known = Revocations(AUTHORITY, [revoke(FAMILY.authority, None, invite.id, "sent to the wrong one").encoded])
    assert known.against(bearer(invite)) is not None


def test_renewing_does_not_escape() -> None:
    known = Revocations(AUTHORITY, [by_issuer(FAMILY.issuer, FAMILY.member).encoded])
    again = certify_node(FAMILY.issuer, FAMILY.member.key.public_key(), "other", may_issue=False)
    assert known.against(bearer(Holder(FAMILY.member.key, again, AUTHORITY))) is not None


def test_an_issuer_revokes_what_it_certified_and_nothing_else() -> None:
    assert by_issuer(FAMILY.issuer, FAMILY.member).node == FAMILY.member.id
    other = node_of(FAMILY.authority, issues=True)
    with pytest.raises(CredentialsRefused, match="that it certified"):
        by_issuer(other, FAMILY.member)
    with pytest.raises(CredentialsRefused, match="that it certified"):
        by_issuer(FAMILY.issuer, other)
    with pytest.raises(CredentialsRefused, match="that it certified"):
        revoke(FAMILY.issuer, None, other.id, "envy")
    with pytest.raises(CredentialsRefused, match="that it certified"):
        revoke(FAMILY.issuer, FAMILY.member.certificate, other.id, "envy")


def test_members_processes_and_invites_revoke_nobody() -> None:
    invite = make_invite(FAMILY.issuer, hours=1, may_issue=False)
    for signer in (FAMILY.member, FAMILY.process, invite):
        with pytest.raises(CredentialsRefused, match=r"no right|certified"):
            by_issuer(signer, FAMILY.member)


def test_a_member_that_makes_itself_a_certificate_of_an_issuer_revokes_nobody() -> None:
    """The last certificate of a path is bound by no path length; it is by our own rule."""
    boss = replace(FAMILY.member, chain=(_boasting(FAMILY.member), *FAMILY.member.chain))
    victim = node_of(boss)
    with pytest.raises(CredentialsRefused, match="may not certify others"):
        by_issuer(boss, victim)


def _boasting(member: Holder) -> Certificate:
    key = member.key.public_key()
    return _issue(member, _subject("lepton", Role.NODE, key), key, days=1, at=now(), depth=3)


def test_the_authority_of_another_swarm_has_no_say() -> None:
    foreign = revoke(Family().authority, None, FAMILY.member.id, "envy").encoded
    with pytest.raises(CredentialsRefused):
        read_statement(foreign, AUTHORITY)
    assert not Revocations(AUTHORITY, [foreign])


def test_a_statement_has_one_encoding_of_one_line() -> None:
    document = json.loads(STATEMENTS[0].encoded)
    assert b"\n" not in STATEMENTS[0].encoded
    for again in (json.dumps(document, indent=1), json.dumps(document), json.dumps({**document, "more": 1})):
        with pytest.raises(CredentialsRefused):
            read_statement(again.encode(), AUTHORITY)


def test_what_is_revoked_is_an_id() -> None:
    for node in ("", "first", "A" * 32, "../" * 10):
        with pytest.raises(CredentialsRefused):
            revoke(FAMILY.authority, None, node, "x")


@pytest.mark.parametrize("field", ["body", "signature"])
def test_a_changed_statement_is_refused(field: str) -> None:
    document = json.loads(STATEMENTS[0].encoded)
    changed = bytearray(document[field].encode())
    changed[10] ^= 1
    document[field] = changed.decode()
    with pytest.raises(CredentialsRefused):
        read_statement(json.dumps(document).encode(), AUTHORITY)


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(
        lambda value: json.dumps({"body": value, "signature": "", "signer": value, "certificate": []}).encode()
    )
)
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(CredentialsRefused):
        read_statement(data, AUTHORITY)


@settings(deadline=None)
@given(
    sides=st.lists(st.lists(st.sampled_from(STATEMENTS), max_size=6), min_size=2, max_size=4), order=st.integers(0, 9)
)
def test_whoever_heard_the_same_ones_agrees(sides: list[list[Statement]], order: int) -> None:
    everything = [statement.encoded for side in sides for statement in side]
    one = Revocations(AUTHORITY, everything)
    random.Random(order).shuffle(everything)
    other = Revocations(AUTHORITY)
    for encoded in everything:
        other.add([encoded])
    assert one.digest == other.digest
    assert {s.node for s in one} == {s.node for s in other}
    assert not one.add(other.encoded())


def test_different_sets_have_different_digests() -> None:
    digests = {Revocations(AUTHORITY, [s.encoded for s in STATEMENTS[:n]]).digest for n in range(7)}
    assert len(digests) == 7


def test_a_set_has_bounds_and_an_issuer_cannot_use_up_the_authoritys_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocations, "MAX_STATEMENTS", 5)
    monkeypatch.setattr(revocations, "RESERVED", 2)
    known = Revocations(AUTHORITY)
    flood = [by_issuer(FAMILY.issuer, node_of(FAMILY.issuer)).encoded for _ in range(5)]
    assert len(known.add(flood)) == 3
    assert len(known.add([s.encoded for s in STATEMENTS[:4]])) == 2
    assert len(known) == 5
