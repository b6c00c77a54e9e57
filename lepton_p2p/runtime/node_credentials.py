"""The credentials of a running peer: what it shows, whom it certifies, what it knows to be revoked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

import structlog

from lepton_p2p.credentials.bearer import Bearer, read_bearer
from lepton_p2p.credentials.certificates import Holder, make_process, now
from lepton_p2p.credentials.enrolment import Request, grant
from lepton_p2p.credentials.folder import KeysFolder
from lepton_p2p.credentials.keys import id_of
from lepton_p2p.credentials.revocations import Revocations, read_statement
from lepton_p2p.errors import CredentialsRefused, Revoked
from lepton_p2p.identity import PeerId, PeerInfo, short
from lepton_p2p.runtime.acquaintances import Acquaintances
from lepton_p2p.runtime.claims import SignedClaims
from lepton_p2p.transport.faults import Busy
from lepton_p2p.transport.limits import TokenBucket
from lepton_p2p.transport.security import Security
from lepton_p2p.transport.wire_credentials import MAX_ISSUERS, Enrolled

_log = structlog.get_logger(__name__)

ENROLMENTS: Final = 20
"""Machines that a peer certifies at once; after that one in a second."""
MAX_ISSUED: Final = 10_000
"""Nodes that a peer remembers to have certified; beyond it certifies no more, lest an invitation fill the disk."""


class NodeCredentials:
    """The node ``holder`` and a fresh process under it.  folder: where the node's credentials are kept, if anywhere.

    Raises :class:`Revoked` if that is known already.
    """

    def __init__(self, holder: Holder, folder: Path | None) -> None:
        self.node = holder
        self.folder = KeysFolder(folder) if folder is not None else None
        revoked = self.folder.revoked() if self.folder is not None else ()
        self.security = Security(make_process(holder), Revocations(holder.authority, revoked))
        self.id = PeerId(self.security.holder.id)
        self.acquaintances = Acquaintances(self.security, time.monotonic)
        self.claims = SignedClaims(self.security.holder, self.acquaintances)
        self._bearer = read_bearer(self.security.holder.chain, holder.authority, now())
        self.security.check(self._bearer)
        self._writing = asyncio.Lock()
        self._bucket = TokenBucket(ENROLMENTS, 1.0)
        self._issued = set(self.folder.issued_ids()) if self.folder is not None else set[str]()

    @property
    def expires(self) -> datetime:
        """When the others take this peer for a stranger, unless it is renewed."""
        return self._bearer.expires

    @property
    def own_nodes(self) -> frozenset[str]:
        """This node, and those that have certified it: if one of them is revoked, so is this peer."""
        return frozenset(self._bearer.nodes)

    def adopt(self, node: Holder) -> None:
        """Go on under a newer certificate of this node's key; the process keeps its key and its id."""
        process = make_process(node, key=self.security.holder.key)
        self._bearer = read_bearer(process.chain, node.authority, now())
        self.node, self.security.holder = node, process
        self.acquaintances.renew(self._bearer)

    async def keep(self) -> None:
        """Write this node's certificate down, for the next start; :class:`ConfigError` if that cannot be done."""
        if self.folder is not None:
            await asyncio.to_thread(self.folder.store, self.node)

    def revoked_by(self, statement: bytes) -> bool:
        """Whether ``statement`` is a valid one, and about this node or one that certified it."""
        try:
            return read_statement(statement, self.node.authority).node in self.own_nodes
        except CredentialsRefused:
            return False

    def machine_of(self, peer: PeerId) -> tuple[str, str]:
        """The id and the name of the node that ``peer`` belongs to; empty if it has not called here (yet)."""
        bearer = self._bearer if peer == self.id else self.security.caller(peer)
        return (bearer.node, bearer.name) if bearer is not None else ("", "")

    async def keep_revoked(self) -> None:
        """Write down what is revoked, for the next start."""
        if self.folder is not None:
            async with self._writing:
                await asyncio.to_thread(self.folder.keep_revoked, self.security.revocations.encoded())

    async def enrol(self, request: Request, asker: Bearer, members: Callable[[], list[PeerInfo]]) -> Enrolled:
        """Certify a machine if this node may, else name those of ``members`` that may."""
        if self.node.depth < 1:
            issuers = self.security.issuers()
            return Enrolled((), tuple(peer.address for peer in members() if peer.id in issuers)[:MAX_ISSUERS])
        if not self._bucket.take(asyncio.get_running_loop().time()):
            raise Busy("too many machines want to be certified at a time")
        node = id_of(request.key)
        if (statement := self.security.revocations.of(node)) is not None:
            raise Revoked("this machine's key is revoked: join with an empty folder for its keys", statement.encoded)
        if len(self._issued) >= MAX_ISSUED and node not in self._issued:
            raise CredentialsRefused(f"this peer has certified {MAX_ISSUED} nodes and certifies no more")
        chain = grant(self.node, asker, request)
        if self.folder is not None:
            await asyncio.to_thread(self.folder.record, chain[0])
        self._issued.add(node)
        _log.info("certified a machine", node=short(node), name=request.name, invite=short(asker.id))
        return Enrolled(chain)
