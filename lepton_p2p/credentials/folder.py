"""The folder with a machine's credentials.

``authority.pem``: the swarm's authority.  ``node.key`` (0600), ``node.pem``: this machine's key, and its certificate
with those above it.  ``authority.key`` (0600): only where the swarm was made; whoever has it can make anybody a member.
``issued/``: certificates of the nodes that were certified here.  ``revoked.jsonl``: what is revoked.

Keys are never overwritten.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from cryptography import x509

from lepton_p2p.credentials.bearer import Bearer, read_bearer, to_pem
from lepton_p2p.credentials.certificates import (
    Certificate,
    Holder,
    Role,
    certify_node,
    found_authority,
    name_of,
    now,
    role_of,
)
from lepton_p2p.credentials.keys import (
    MAX_FILE,
    PrivateKey,
    check_public_key,
    id_of,
    load_key,
    new_key,
    private_pem,
    write_public,
    write_secret,
)
from lepton_p2p.credentials.revocations import MAX_STATEMENTS
from lepton_p2p.errors import ConfigError

_FILES: Final = ("authority.key", "authority.pem", "node.key", "node.pem")


class KeysFolder:
    """The credentials in the folder ``path``; whatever is wrong with them is a :class:`ConfigError` in one line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    # -- reading -----------------------------------------------------------------------------------

    @property
    def has_node(self) -> bool:
        """Whether this machine has credentials here."""
        return (self.path / "node.pem").exists()

    @property
    def has_authority_key(self) -> bool:
        return (self.path / "authority.key").exists()

    def authority(self) -> Certificate:
        """The authority of the swarm."""
        found = self._certificates("authority.pem")
        if len(found) != 1 or role_of(found[0]) is not Role.AUTHORITY:
            raise ConfigError(f"{self.path / 'authority.pem'}: is not the certificate of a swarm's authority")
        return found[0]

    def node(self) -> Holder:
        """This machine's credentials, whether they are valid now or not."""
        chain, key = self._certificates("node.pem"), load_key(self.path / "node.key")
        if role_of(chain[0]) is not Role.NODE or id_of(key.public_key()) != _key_id(chain[0]):
            raise ConfigError(f"{self.path}: node.key and node.pem do not belong together")
        return Holder(key, chain, self.authority())

    def valid_node(self) -> tuple[Holder, Bearer]:
        """The same, verified; :class:`CredentialsRefused` says what is wrong."""
        node = self.node()
        return node, read_bearer(node.chain, node.authority, now())

    def issuer(self) -> Holder:
        """Who can certify others here: the authority if its key is here, else this node (which may have no right)."""
        if not self.has_authority_key:
            return self.node()
        key, authority = load_key(self.path / "authority.key"), self.authority()
        if id_of(key.public_key()) != _key_id(authority):
            raise ConfigError(f"{self.path}: authority.key and authority.pem do not belong together")
        return Holder(key, (), authority)

    def issued(self) -> Iterator[Certificate]:
        """The nodes and invites that were certified with these credentials; unreadable files are an error."""
        for file in sorted((self.path / "issued").glob("*.pem")):
            yield _load(file)[0]

    def issued_ids(self) -> Iterator[str]:
        """The same, by their ids alone."""
        return (file.stem for file in (self.path / "issued").glob("*.pem"))

    def revoked(self) -> tuple[bytes, ...]:
        """Statements that were kept, one in a line; not verified yet."""
        try:
            return tuple((self.path / "revoked.jsonl").read_bytes().splitlines()[:MAX_STATEMENTS])
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise ConfigError(f"{self.path / 'revoked.jsonl'}: cannot be read: {error.strerror}") from None

    # -- writing -----------------------------------------------------------------------------------

    def init(self, swarm: str, name: str) -> Holder:
        """Make a swarm's authority, and credentials of an issuer for this machine."""
        self._make()
        if any((self.path / file).exists() for file in _FILES):
            raise ConfigError(f"{self.path} holds credentials already, and keys are never overwritten: choose another")
        authority = found_authority(swarm)
        self._create("authority.key", private_pem(authority.key))
        key = self.node_key()
        node = Holder(key, certify_node(authority, key.public_key(), name, may_issue=True), authority.authority)
        self.store(node)
        return node

    def node_key(self) -> PrivateKey:
        """This machine's key, made now if there is none: two processes that start at once get the same."""
        self._make()
        with contextlib.suppress(FileExistsError):
            write_secret(self.path / "node.key", private_pem(new_key()))
        return load_key(self.path / "node.key")

    def store(self, node: Holder) -> None:
        """Keep the credentials that were granted to :meth:`node_key`, or a newer certificate of the same authority."""
        file = self.path / "authority.pem"
        if file.exists() and self.authority() != node.authority:
            raise ConfigError(f"{self.path} holds credentials of another swarm: choose another folder")
        write_public(file, to_pem([node.authority]))
        write_public(self.path / "node.pem", to_pem(node.chain))

    def record(self, certificate: Certificate) -> None:
        """Remember what was certified, for `keys list` and `keys revoke`; the id of its key is the file's name."""
        folder = self.path / "issued"
        folder.mkdir(mode=0o700, exist_ok=True)
        write_public(folder / f"{_key_id(certificate)}.pem", to_pem([certificate]))

    def keep_revoked(self, statements: Iterable[bytes]) -> None:
        """Keep ``statements`` and what is kept already: `keys revoke` may have written it while a peer runs here."""
        rows = list(dict.fromkeys((*statements, *self.revoked())))[:MAX_STATEMENTS]
        write_public(self.path / "revoked.jsonl", b"".join(row + b"\n" for row in rows))

    def _create(self, file: str, data: bytes) -> None:
        try:
            write_secret(self.path / file, data)
        except FileExistsError:
            raise ConfigError(f"{self.path / file} exists, and keys are never overwritten") from None

    def _make(self) -> None:
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"the folder {self.path} cannot be made: {error.strerror}") from None

    def _certificates(self, file: str) -> tuple[Certificate, ...]:
        if not (self.path / file).exists():
            raise ConfigError(f"{self.path} holds no credentials: run lepton-peer keys init, or join with a token")
        return _load(self.path / file)


def described(certificate: Certificate) -> tuple[str, str]:
    """The id and the name of a node's certificate."""
    return _key_id(certificate), name_of(certificate)


def _load(path: Path) -> tuple[Certificate, ...]:
    try:
        with path.open("rb") as file:
            return tuple(x509.load_pem_x509_certificates(file.read(MAX_FILE)))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise ConfigError(f"{path}: is not a certificate") from None


def _key_id(certificate: Certificate) -> str:
    return id_of(check_public_key(certificate.public_key()))
