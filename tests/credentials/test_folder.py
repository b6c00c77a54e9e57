"""The folder with the credentials: secret files are secret, keys are never overwritten, damage is named."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from swarm_keys import Family, node_of

from lepton_p2p.credentials.certificates import AUTHORITY_DEPTH, Holder, certify_node
from lepton_p2p.credentials.folder import KeysFolder, described
from lepton_p2p.credentials.keys import id_of
from lepton_p2p.errors import ConfigError, CredentialsRefused


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_swarm_has_an_authority_and_an_issuer(tmp_path: Path) -> None:
    folder = KeysFolder(tmp_path / "keys")
    node = folder.init("digits", "first")
    found, bearer = folder.valid_node()
    assert (found.id, bearer.swarm, bearer.name, bearer.may_issue) == (node.id, "digits", "first", True)
    assert folder.issuer().depth == AUTHORITY_DEPTH
    (folder.path / "authority.key").rename(tmp_path / "safe")
    assert folder.issuer().id == node.id


def test_only_the_owner_reads_keys(tmp_path: Path) -> None:
    KeysFolder(tmp_path / "keys").init("digits", "first")
    assert mode(tmp_path / "keys") == 0o700
    for name in ("authority.key", "node.key"):
        file = tmp_path / "keys" / name
        assert mode(file) == 0o600
        file.chmod(0o640)
        with pytest.raises(ConfigError, match=f"chmod 600 .*{name}"):
            KeysFolder(tmp_path / "keys").issuer() if name == "authority.key" else KeysFolder(tmp_path / "keys").node()
        file.chmod(0o600)


def test_keys_are_never_overwritten(tmp_path: Path) -> None:
    folder = KeysFolder(tmp_path)
    folder.init("digits", "first")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(ConfigError, match="never overwritten"):
        folder.init("digits", "again")
    with pytest.raises(ConfigError, match="of another swarm"):
        folder.store(Family().member)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_granted_certificate_is_kept_and_may_be_renewed(tmp_path: Path) -> None:
    family, folder = Family(), KeysFolder(tmp_path / "deep" / "keys")
    assert not folder.has_node
    key = folder.node_key()
    for name in ("first", "renewed"):
        chain = certify_node(family.issuer, key.public_key(), name, may_issue=False)
        folder.store(Holder(key, chain, family.authority.authority))
        assert folder.has_node
        assert folder.valid_node()[1].name == name
    assert not list(folder.path.glob(".*"))


def test_processes_that_start_at_once_get_the_same_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda _: KeysFolder(tmp_path / "keys").node_key(), range(32)))
    assert len({id_of(key.public_key()) for key in keys}) == 1


def test_the_nodes_that_were_certified_are_remembered(tmp_path: Path) -> None:
    family, folder = Family(), KeysFolder(tmp_path)
    folder.init("lepton", "first")
    nodes = [node_of(family.issuer, f"node{number}") for number in range(3)]
    for node in nodes:
        folder.record(node.certificate)
    assert sorted(described(found) for found in folder.issued()) == sorted(
        (n.id, f"node{i}") for i, n in enumerate(nodes)
    )


def test_what_is_revoked_accumulates_whoever_writes_it(tmp_path: Path) -> None:
    folder = KeysFolder(tmp_path)
    folder.init("lepton", "first")
    assert folder.revoked() == ()
    folder.keep_revoked([b"one", b"two"])
    folder.keep_revoked([b"two", b"three"])
    assert set(folder.revoked()) == {b"one", b"two", b"three"}


def test_an_empty_folder_says_what_to_do(tmp_path: Path) -> None:
    for call in (KeysFolder(tmp_path).node, KeysFolder(tmp_path).authority, KeysFolder(tmp_path / "none").issuer):
        with pytest.raises(ConfigError, match="keys init, or join with a token"):
            call()


@pytest.mark.parametrize("name", ["authority.pem", "node.pem", "node.key"])
@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    folder = KeysFolder(tmp_path)
    folder.init("lepton", "first")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=name.replace(".", r"\.")):
        folder.node()


def test_files_of_different_machines_do_not_mix(tmp_path: Path) -> None:
    one, two = KeysFolder(tmp_path / "one"), KeysFolder(tmp_path / "two")
    one.init("lepton", "one")
    two.init("lepton", "two")
    (one.path / "node.pem").write_bytes((two.path / "node.pem").read_bytes())
    with pytest.raises(ConfigError, match="do not belong together"):
        one.node()
    (one.path / "node.key").unlink()
    (two.path / "node.key").rename(one.path / "node.key")
    with pytest.raises(CredentialsRefused, match="not issued by the authority"):
        one.valid_node()
    (one.path / "authority.key").unlink()
    (two.path / "authority.key").rename(one.path / "authority.key")
    with pytest.raises(ConfigError, match="do not belong together"):
        one.issuer()
