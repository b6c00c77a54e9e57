"""What a process shows in TLS, and whom it believes: mutual TLS 1.3 under the swarm's own authority."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final, TypeVar

import grpc

from lepton_p2p.credentials.bearer import Bearer, from_pem, read_bearer, to_pem
from lepton_p2p.credentials.certificates import SERVER_NAME, Certificate, Holder, now
from lepton_p2p.credentials.keys import private_pem
from lepton_p2p.credentials.revocations import Revocations
from lepton_p2p.errors import CredentialsRefused, Revoked
from lepton_p2p.identity import short

CHANNEL_OPTIONS: Final = (("grpc.ssl_target_name_override", SERVER_NAME),)
"""Certificates name no hosts: peers are known by their keys, wherever they are."""
Key = TypeVar("Key")
_REMEMBERED: Final = 4096
_NO_CERTIFICATE: Final = "a call without a certificate"


class Security:
    """The credentials ``holder`` of this process (or an invite), and what is revoked in its swarm."""

    def __init__(self, holder: Holder, revocations: Revocations | None = None) -> None:
        self.holder = holder
        self.revocations = revocations if revocations is not None else Revocations(holder.authority)
        self.on_revoked_caller: Callable[[str, str], None] | None = None
        """Told the id of a process that called although it is revoked, and why."""
        self._known: dict[tuple[bytes, bytes], Bearer] = {}
        self._callers: dict[str, Bearer] = {}

    def for_server(self) -> grpc.ServerCredentials:
        """Who has no certificate of this swarm does not get past the handshake.

        Each handshake shows the certificate of the moment: a running peer's is renewed.
        """
        shown = self.holder

        def newer() -> grpc.ServerCertificateConfiguration | None:
            nonlocal shown
            if shown is self.holder:
                return None
            shown = self.holder
            return _configuration(shown)

        return grpc.dynamic_ssl_server_credentials(
            _configuration(shown),
            newer,  # type: ignore[arg-type]  # None is for "no change", says the library; its types do not know
            require_client_authentication=True,
        )

    def for_channel(self) -> grpc.ChannelCredentials:
        key, chain = private_pem(self.holder.key), to_pem(self.holder.chain)
        return grpc.ssl_channel_credentials(to_pem([self.holder.authority]), key, chain)

    def issuers(self) -> frozenset[str]:
        """Ids of processes that have called here and whose node may certify others."""
        return frozenset(bearer.id for bearer in self._callers.values() if bearer.may_issue)

    def processes_of(self, node: str) -> frozenset[str]:
        """Ids of processes that have called here and belong to ``node``, or to one that it has certified."""
        return frozenset(bearer.id for bearer in self._callers.values() if node in bearer.nodes)

    def caller(self, process: str) -> Bearer | None:
        """What the process with this id has shown when it called here."""
        return self._callers.get(process)

    def judge(self, certificate: bytes, above: bytes, at: datetime | None = None) -> Bearer:
        """Whose call it is that came with ``certificate`` and those ``above`` it (PEM, as TLS got them).

        TLS has verified them when the connection was made.  It is done again, because a certificate expires and is
        revoked while connections live on, and because only the verified path, not the list that was sent, says which
        nodes stand above.  Raises :class:`CredentialsRefused` and :class:`Revoked`.
        """
        at = at or now()
        bearer = self._known.get((certificate, above))
        if bearer is None or at >= bearer.expires:
            bearer = read_bearer(_parsed(certificate, above), self.holder.authority, at)
            _remember(self._known, (certificate, above), bearer)
            _remember(self._callers, bearer.id, bearer)
        try:
            self.check(bearer)
        except Revoked as error:
            if self.on_revoked_caller is not None:
                self.on_revoked_caller(bearer.id, str(error))
            raise
        return bearer

    def check(self, bearer: Bearer) -> None:
        """Raise :class:`Revoked` if ``bearer`` was revoked after it was admitted, or before."""
        statement = self.revocations.against(bearer)
        if statement is not None:
            raise Revoked(f"node {short(statement.node)} was revoked: {statement.reason}", statement.encoded)


def _configuration(holder: Holder) -> grpc.ServerCertificateConfiguration:
    pair = (private_pem(holder.key), to_pem(holder.chain))
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=to_pem([holder.authority]))


def _remember(among: dict[Key, Bearer], key: Key, bearer: Bearer) -> None:
    if len(among) >= _REMEMBERED:
        del among[next(iter(among))]
    among[key] = bearer


def _parsed(certificate: bytes, above: bytes) -> tuple[Certificate, ...]:
    try:
        (own,) = from_pem(certificate)
        return (own, *(from_pem(above) if above else ()))
    except ValueError:
        raise CredentialsRefused(_NO_CERTIFICATE) from None
