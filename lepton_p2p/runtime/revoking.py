"""Revocations in a running peer: how they spread, and what follows from one.

Every answer to a call says what the answering peer knows to be revoked, as a digest.  Who sees another one than its own
merges both sides' statements.  Members probe each other all the time, so that a statement reaches everybody in about as
many probe intervals as gossip takes: the logarithm of their number.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from lepton_p2p.credentials.revocations import Statement
from lepton_p2p.errors import LeptonError, Revoked
from lepton_p2p.identity import PeerId, short
from lepton_p2p.runtime.node_credentials import NodeCredentials
from lepton_p2p.tasks import OwnedTasks
from lepton_p2p.transport.faults import Busy
from lepton_p2p.transport.limits import TokenBucket

_log = structlog.get_logger(__name__)

_AT_ONCE: Final = 4
"""Merges that this peer begins at a time."""
_MOST_REMEMBERED: Final = 1000

Exchange = Callable[[str, Sequence[bytes]], Awaitable[Sequence[bytes]]]
"""``exchange(address, statements)``: give them to the peer there, get all of its own."""


class Revoker:
    """expel(peer, reason): cut the peer off at once and believe nothing good of it; None: all clients, which have no
    ids and may ask again.  fail: this peer is revoked.
    """

    def __init__(
        self,
        credentials: NodeCredentials,
        *,
        exchange: Exchange,
        expel: Callable[[PeerId | None, str], None],
        fail: Callable[[BaseException], None],
        tasks: OwnedTasks,
    ) -> None:
        self._credentials = credentials
        self._revocations = credentials.security.revocations
        self._exchange = exchange
        self._expel = expel
        self._fail = fail
        self._tasks = tasks
        self._merging: set[str] = set()
        self._merged: dict[str, tuple[str, str]] = {}
        self._bucket = TokenBucket(50, 10.0)
        # Some process may be known to others only when its node is revoked: it is cut off when it first calls.
        credentials.security.on_revoked_caller = lambda peer, reason: expel(PeerId(peer), reason)

    def differs(self, address: str, digest: str) -> None:
        """The peer at ``address`` knows what has this ``digest``: if it is not what is known here, merge."""
        mine = self._revocations.digest
        if digest == mine or address in self._merging or len(self._merging) >= _AT_ONCE:
            return
        if self._merged.get(address) == (digest, mine):
            return  # that was tried, and neither side took what the other has
        if len(self._merged) >= _MOST_REMEMBERED:
            self._merged.clear()
        self._merged[address] = (digest, mine)
        self._merging.add(address)
        self._tasks.spawn(self._merge(address), f"merge revocations with {address}")

    def shown(self, statement: bytes) -> None:
        """A peer refused a call with this ``statement``, which is to say why."""
        self._tasks.spawn(self.take((statement,)), "look at a revocation")

    async def answer(self, statements: Sequence[bytes]) -> tuple[bytes, ...]:
        """The other side of a merge."""
        if not self._bucket.take(asyncio.get_running_loop().time()):
            raise Busy("too many revocations are exchanged at a time")
        await self.take(statements)
        return self._revocations.encoded()

    async def take(self, statements: Sequence[bytes]) -> None:
        """Verify ``statements``, keep what is news, and act on it."""
        unknown = self._revocations.unknown(statements)
        if not unknown:
            return
        # A thread: verifying one takes a tenth of a millisecond or more, and there may be hundreds.
        verified = await asyncio.to_thread(self._revocations.verify, unknown)
        if news := self._revocations.keep(verified):
            for statement in news:
                self._act(statement)
            await self._credentials.keep_revoked()

    async def _merge(self, address: str) -> None:
        try:
            await self.take(await self._exchange(address, self._revocations.encoded()))
        except LeptonError as error:
            self._merged.pop(address, None)
            _log.info("revocations could not be exchanged (yet)", address=address, why=str(error))
        finally:
            self._merging.discard(address)

    def _act(self, statement: Statement) -> None:
        _log.warning("a node is revoked", node=short(statement.node), why=statement.reason)
        if statement.node in self._credentials.own_nodes:
            self._fail(Revoked(f"this machine's credentials are revoked: {statement.reason}"))
        reason = f"its node was revoked: {statement.reason}"
        credentials, node = self._credentials, statement.node
        for peer in credentials.security.processes_of(node) | credentials.acquaintances.processes_of(node):
            self._expel(PeerId(peer), reason)
        self._expel(None, "credentials were revoked; ask again")
