"""Revocations: signed statements that a node is no member any more.

A set of them only grows, and two sets merge to their union, so that it does not matter in which order and over whom
they spread.  Statements are about keys and not about certificates: renewing does not escape one.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from cryptography.exceptions import InvalidSignature

from lepton_p2p.credentials.bearer import Bearer, from_der, read_bearer, to_der
from lepton_p2p.credentials.certificates import Certificate, Holder, Role, now
from lepton_p2p.credentials.keys import check_public_key, id_of, sign, signed_by
from lepton_p2p.errors import CredentialsRefused
from lepton_p2p.identity import peer_id

MAX_STATEMENT: Final = 8192
"""Bytes of a statement; one with a chain of certificates has about 3000."""
MAX_STATEMENTS: Final = 400
"""Statements that a set holds at most: all of them fit into one message.  The authority's own always find room."""
RESERVED: Final = 100
"""How many of these are kept for the authority, so that no issuer can use up the room."""
MAX_REASON: Final = 200
_CONTEXT: Final = b"lepton revocation 1\0"


@dataclass(frozen=True, slots=True)
class Statement:
    """``node`` (the id of its key) is revoked since ``time`` for ``reason``; ``encoded`` is what travels."""

    node: str
    reason: str
    time: datetime
    by: str
    encoded: bytes


def revoke(signer: Holder, certificate: Certificate | None, node: str, reason: str) -> Statement:
    """State that ``node`` is revoked.  The authority may revoke anybody, an issuer what it certified (give that
    ``certificate``); :class:`CredentialsRefused` otherwise.
    """
    said = {"node": node, "reason": reason[:MAX_REASON], "time": int(now().timestamp())}
    body = json.dumps(said).encode()
    rows = to_der(signer.chain)
    shown = to_der([certificate]) if certificate is not None and signer.chain else ()
    document = {
        "body": _text(body),
        "signature": _text(sign(signer.key, _CONTEXT + body)),
        "signer": [_text(row) for row in rows],
        "certificate": [_text(row) for row in shown],
    }
    return read_statement(_written(document), signer.authority)


def read_statement(encoded: bytes, authority: Certificate) -> Statement:
    """Verify a statement from the network or a file; :class:`CredentialsRefused` if nobody with the right made it."""
    try:
        if len(encoded) > MAX_STATEMENT:
            raise ValueError("too long")
        document = json.loads(encoded)
        body, signature = _bytes(document["body"]), _bytes(document["signature"])
        signer = from_der([_bytes(row) for row in document["signer"]])
        shown = from_der([_bytes(row) for row in document["certificate"]])
        said = json.loads(body)
        node, reason, time = said["node"], said["reason"], datetime.fromtimestamp(int(said["time"]), UTC)
        if not isinstance(reason, str) or len(reason) > MAX_REASON or not reason.isprintable():
            raise ValueError("a reason that cannot be shown")
        peer_id(node)
        if _written(document) != encoded:
            raise ValueError("written in another way")  # one encoding, one line: sets and files rely on it
        key = check_public_key((signer[0] if signer else authority).public_key())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError, OSError) as error:
        raise CredentialsRefused(f"not a revocation of this swarm: {type(error).__name__}") from None
    if not signed_by(key, signature, _CONTEXT + body):
        raise CredentialsRefused("the signature of a revocation is wrong")
    if signer:
        _check_right(signer, shown, node, authority, time)
    return Statement(node, reason, time, id_of(key), encoded)


def _check_right(
    signer: tuple[Certificate, ...], shown: tuple[Certificate, ...], node: str, authority: Certificate, time: datetime
) -> None:
    """An issuer may revoke what it certified.  Its own certificate must have been valid when it said so."""
    bearer = read_bearer(signer, authority, min(time, now()))
    if bearer.role is not Role.NODE or not bearer.may_issue:
        raise CredentialsRefused("a revocation by a node that certifies nobody: it has no right to revoke")
    try:
        if len(shown) != 1 or _id(shown[0]) != node:
            raise ValueError
        shown[0].verify_directly_issued_by(bearer.chain[0])
    except (ValueError, TypeError, InvalidSignature):
        raise CredentialsRefused("an issuer revokes only nodes that it certified: ask the swarm's authority") from None


class Revocations:
    """What is revoked in the swarm of ``authority``, as far as this peer knows."""

    def __init__(self, authority: Certificate, encoded: Iterable[bytes] = ()) -> None:
        self._authority = authority
        self._by_node: dict[str, Statement] = {}
        self._digest = b""
        self.add(encoded)

    def add(self, encoded: Iterable[bytes]) -> tuple[Statement, ...]:
        """Verify statements and keep those that are news, which are returned; bad ones are left out."""
        return self.keep(self.verify(self.unknown(encoded)))

    def unknown(self, encoded: Iterable[bytes]) -> tuple[bytes, ...]:
        """Those that are not kept here yet, byte by byte; at most as many as a set may hold."""
        known = {statement.encoded for statement in self}
        return tuple(row for row in itertools.islice(encoded, MAX_STATEMENTS) if row not in known)

    def verify(self, encoded: Iterable[bytes]) -> tuple[Statement, ...]:
        """The good ones among ``encoded``; changes nothing, so that any thread may do it."""
        good = []
        for row in encoded:
            with contextlib.suppress(CredentialsRefused):
                good.append(read_statement(row, self._authority))
        return tuple(good)

    def keep(self, statements: Iterable[Statement]) -> tuple[Statement, ...]:
        """Keep what is news, which is returned."""
        news = []
        for statement in statements:
            limit = MAX_STATEMENTS if statement.by == _id(self._authority) else MAX_STATEMENTS - RESERVED
            if statement.node not in self._by_node and len(self._by_node) < limit:
                self._by_node[statement.node] = statement
                news.append(statement)
        self._digest = hashlib.sha256("".join(sorted(self._by_node)).encode()).digest()[:8]
        return tuple(news)

    @property
    def digest(self) -> str:
        """Equal for two sets if they revoke the same nodes: 16 hex digits."""
        return self._digest.hex()

    def encoded(self) -> tuple[bytes, ...]:
        return tuple(statement.encoded for statement in self)

    def of(self, node: str) -> Statement | None:
        """The statement about ``node``."""
        return self._by_node.get(node)

    def against(self, bearer: Bearer) -> Statement | None:
        """The statement that makes ``bearer`` a stranger: about its node, one that certified that, or an invite."""
        return next((found for node in (bearer.id, *bearer.nodes) if (found := self.of(node)) is not None), None)

    def __iter__(self) -> Iterator[Statement]:
        return iter(tuple(self._by_node.values()))

    def __len__(self) -> int:
        return len(self._by_node)


def _written(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _id(certificate: Certificate) -> str:
    return id_of(check_public_key(certificate.public_key()))


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes(text: Any) -> bytes:
    if not isinstance(text, str):
        raise ValueError("not text")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError("not base64") from None
