"""``lepton-peer keys``: what it makes, and how it refuses."""

from __future__ import annotations

import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lepton_p2p import cli
from lepton_p2p.credentials.bearer import read_bearer
from lepton_p2p.credentials.certificates import Holder, Role, certify_node, now, role_of
from lepton_p2p.credentials.folder import KeysFolder, described
from lepton_p2p.credentials.keys import new_key
from lepton_p2p.credentials.revocations import Revocations
from lepton_p2p.credentials.tokens import read_token

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``lepton-peer keys`` in this process: exit code, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lepton-peer", "keys", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


def test_init_makes_a_swarm_once(keys: Run, tmp_path: Path) -> None:
    code, out, err = keys("init", "--keys", tmp_path / "k", "--swarm", "digits", "--name", "first")
    assert (code, err) == (0, "")
    assert KeysFolder(tmp_path / "k").valid_node()[0].id[:8] in out
    assert "--listen 0.0.0.0:7700 --swarm digits" in out
    code, out, err = keys("init", "--keys", tmp_path / "k")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "never overwritten" in err


def test_a_bad_name_makes_nothing(keys: Run, tmp_path: Path) -> None:
    for option in (("--name", "../x"), ("--swarm", "x" * 65), ("--swarm", ""), ("--swarm", "a b")):
        code, _, err = keys("init", "--keys", tmp_path / "k", *option)
        assert code == 2
        assert option[0] in err
        assert not (tmp_path / "k").exists()


def test_invite_prints_a_token_and_nothing_else(keys: Run, tmp_path: Path) -> None:
    keys("init", "--keys", tmp_path)
    code, out, err = keys("invite", "--keys", tmp_path, "--hours", "2")
    assert code == 0
    invite = read_token(out)
    bearer = read_bearer(invite.chain, invite.authority, now())
    assert bearer.role is Role.INVITE
    assert 1.9 < (bearer.expires - now()).total_seconds() / 3600 <= 2
    assert out.strip() not in err
    assert invite.id[:8] in err


def test_a_token_file_is_for_its_owner_and_is_not_overwritten(keys: Run, tmp_path: Path) -> None:
    keys("init", "--keys", tmp_path / "k")
    file = tmp_path / "token"
    code, out, _ = keys("invite", "--keys", tmp_path / "k", "--issuer", "--to", file)
    assert (code, out) == (0, "")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    invite = read_token(file.read_text())
    assert read_bearer(invite.chain, invite.authority, now()).role is Role.ISSUER_INVITE
    code, _, err = keys("invite", "--keys", tmp_path / "k", "--to", file)
    assert code == 2
    assert "choose another file" in err


def test_a_machine_that_may_not_invite_says_who_can(keys: Run, tmp_path: Path) -> None:
    issuer = KeysFolder(tmp_path / "k").init("lepton", "first")
    member = KeysFolder(tmp_path / "m")
    key = member.node_key()
    chain = certify_node(issuer, key.public_key(), "second", may_issue=False)
    member.store(Holder(key, chain, issuer.authority))
    code, out, err = keys("invite", "--keys", member.path)
    assert (code, out) == (18, "")
    assert "ask whoever made the swarm's keys" in err


def test_show_and_list_tell_who_is_who(keys: Run, tmp_path: Path) -> None:
    folder = KeysFolder(tmp_path)
    node = folder.init("digits", "first")
    other = certify_node(node, new_key().public_key(), "second", may_issue=False)[0]
    folder.record(other)
    _, out, _ = keys("show", "--keys", tmp_path)
    assert "digits" in out
    assert f"{node.id} (first), valid until" in out
    assert "its key is here" in out
    _, out, _ = keys("list", "--keys", tmp_path)
    assert node.id in out
    assert "second" in out


def test_an_empty_folder_is_one_line_that_says_what_to_do(keys: Run, tmp_path: Path) -> None:
    for command in ("show", "list", "invite"):
        code, out, err = keys(command, "--keys", tmp_path)
        assert (code, out) == (2, "")
        assert "keys init" in err


def test_revoke_finds_nodes_and_invitations_by_name_or_by_the_beginning_of_their_id(keys: Run, tmp_path: Path) -> None:
    folder = KeysFolder(tmp_path)
    node = folder.init("lepton", "first")
    laptop, *twins = [certify_node(node, new_key().public_key(), name, may_issue=False)[0] for name in ("a", "b", "b")]
    for certificate in (laptop, *twins):
        folder.record(certificate)
    keys("invite", "--keys", tmp_path)
    invite = next(described(found)[0] for found in folder.issued() if role_of(found) is Role.INVITE)
    assert keys("revoke", "a", "--keys", tmp_path, "--reason", "lost")[0] == 0
    assert keys("revoke", invite[:8], "--keys", tmp_path)[0] == 0
    revoked = Revocations(node.authority, folder.revoked())
    assert {statement.node for statement in revoked} == {described(laptop)[0], invite}
    _, out, _ = keys("list", "--keys", tmp_path)
    assert out.count("revoked") == 2
    code, _, err = keys("revoke", "b", "--keys", tmp_path)
    assert code == 2
    assert all(described(twin)[0] in err for twin in twins)


def test_what_was_not_issued_here_needs_its_whole_id_and_the_authority(keys: Run, tmp_path: Path) -> None:
    folder = KeysFolder(tmp_path)
    folder.init("lepton", "first")
    code, _, err = keys("revoke", "somebody", "--keys", tmp_path)
    assert (code, "whole id" in err) == (2, True)
    code, out, err = keys("revoke", "ab" * 16, "--keys", tmp_path)
    assert (code, out) == (0, f"revoked {'ab' * 16}\n")
    assert "nobody knows yet" in err
    (tmp_path / "authority.key").unlink()
    code, _, err = keys("revoke", "cd" * 16, "--keys", tmp_path)
    assert code == 18
    assert "ask the swarm's authority" in err


def test_a_reason_is_one_short_line(keys: Run, tmp_path: Path) -> None:
    KeysFolder(tmp_path).init("lepton", "first")
    for reason in ("a\nb", "x" * 201):
        assert keys("revoke", "ab" * 16, "--keys", tmp_path, "--reason", reason)[0] == 2
    assert not KeysFolder(tmp_path).revoked()
