"""Join tokens: what was written comes back, everything else is refused without showing what it was."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from swarm_keys import Family

from lepton_p2p.credentials.bearer import read_bearer
from lepton_p2p.credentials.certificates import Holder, Role, make_invite, now
from lepton_p2p.credentials.tokens import MAX_TOKEN, PREFIX, read_token, write_token
from lepton_p2p.errors import ConfigError, CredentialsRefused, LeptonError

FAMILY = Family()
INVITE = make_invite(FAMILY.issuer, hours=1, may_issue=False)
TOKEN = write_token(INVITE)


def test_a_token_holds_the_invite_and_the_authority() -> None:
    found = read_token(f"  {TOKEN}\n")
    assert found.chain == INVITE.chain
    assert found.authority == FAMILY.authority.authority
    assert found.id == INVITE.id
    assert read_bearer(found.chain, found.authority, now()).role is Role.INVITE


def test_it_is_one_word_of_moderate_length() -> None:
    assert re.fullmatch(r"lepton1\.[A-Za-z0-9_-]{500,3000}", TOKEN)


def test_an_authority_invites_too_and_says_whether_as_an_issuer() -> None:
    found = read_token(write_token(make_invite(FAMILY.authority, hours=1, may_issue=True)))
    assert read_bearer(found.chain, found.authority, now()).role is Role.ISSUER_INVITE


def test_an_expired_token_is_refused() -> None:
    with pytest.raises(CredentialsRefused, match="invite certificate has expired"):
        read_token(TOKEN, now() + timedelta(hours=2))


def test_credentials_of_another_kind_are_no_token() -> None:
    with pytest.raises(ConfigError, match="something else than an invitation"):
        read_token(write_token(FAMILY.process))


def test_a_key_that_does_not_belong_to_the_certificate_is_seen() -> None:
    other = Holder(FAMILY.process.key, INVITE.chain, INVITE.authority)
    with pytest.raises(ConfigError, match="damaged"):
        read_token(write_token(other))


def test_a_later_version_is_told_from_nonsense() -> None:
    with pytest.raises(ConfigError, match="of version 2: upgrade"):
        read_token("lepton2.AAAA")
    with pytest.raises(ConfigError, match="no join token"):
        read_token("AAAA")
    with pytest.raises(ConfigError, match="damaged"):
        read_token(PREFIX + "A" * MAX_TOKEN)


@settings(deadline=None)
@given(text=st.text(max_size=300) | st.binary(max_size=300).map(bytes.hex))
def test_arbitrary_text_is_refused_in_one_line_that_shows_nothing_of_it(text: str) -> None:
    for token in (text, PREFIX + text):
        with pytest.raises(LeptonError) as caught:
            read_token(token)
        assert "\n" not in str(caught.value)
        assert len(text) < 12 or text not in str(caught.value)


@settings(max_examples=200, deadline=None)
@given(at=st.integers(len(PREFIX), len(TOKEN) - 1), character=st.sampled_from("AZaz09_-"))
def test_one_wrong_character_anywhere_is_noticed(at: int, character: str) -> None:
    changed = TOKEN[:at] + character + TOKEN[at + 1 :]
    if changed == TOKEN:
        return
    with pytest.raises(LeptonError) as caught:
        read_token(changed)
    assert TOKEN[20:60] not in str(caught.value)


@settings(deadline=None)
@given(cut=st.integers(0, len(TOKEN) - 1))
def test_a_token_that_was_cut_off_is_refused(cut: int) -> None:
    with pytest.raises(LeptonError):
        read_token(TOKEN[:cut])
