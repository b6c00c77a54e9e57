"""A running peer gets itself a newer certificate in time, while its rounds go on.

The key, and so the peer's id, stays.  New connections show the new certificate; calls in progress end on the old ones.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

import structlog

from lepton_p2p.credentials.bearer import read_bearer
from lepton_p2p.credentials.certificates import CLOCK_SKEW, Holder, certify_node, name_of, now
from lepton_p2p.credentials.enrolment import accept, write_request
from lepton_p2p.errors import ConfigError, CredentialsRefused, LeptonError
from lepton_p2p.identity import PeerInfo
from lepton_p2p.runtime.node_credentials import NodeCredentials
from lepton_p2p.transport.wire_credentials import Enrolled

_log = structlog.get_logger(__name__)

EARLY: Final = timedelta(days=30)
"""A certificate is renewed so long before it expires, or in the last third of its life if that is later."""
_DAY: Final = 86_400.0
_MOST_ASKED: Final = 16

Ask = Callable[[str, bytes], Awaitable[Enrolled]]
"""``ask(address, request)``: what the member there answers to a request for a certificate."""


class Renewing:
    """ask: see :data:`Ask`.  members: whom to ask.  renewed: called when there is a new certificate, so that
    connections are made with it.
    """

    def __init__(
        self,
        credentials: NodeCredentials,
        *,
        ask: Ask,
        members: Callable[[], Sequence[PeerInfo]],
        renewed: Callable[[], Awaitable[None]],
    ) -> None:
        self._credentials = credentials
        self._ask = ask
        self._members = members
        self._renewed = renewed

    async def run(self, fail: Callable[[BaseException], None]) -> None:
        """Renew whenever it is time; ``fail`` when it is too late and the others take this peer for a stranger."""
        while (left := (self._credentials.expires - now()).total_seconds()) > 0:
            wait = (self._due() - now()).total_seconds()
            if wait > 0:
                await asyncio.sleep(min(wait, _DAY))
                continue
            try:
                self._credentials.adopt(await self._newer())
            except LeptonError as error:
                _log.warning(
                    "this machine's certificate could not be renewed; it is tried until it expires, when this peer "
                    "ends: see that a member that may certify runs, or run lepton-peer keys renew",
                    hours=round(left / 3600, 1),
                    why=str(error),
                )
                await asyncio.sleep(min(left, max(left / 10, 0.5), _DAY))
            else:
                await self._renewed()
                await self._keep()
                _log.info("this machine's certificate was renewed", until=f"{self._credentials.expires:%Y-%m-%d %H:%M}")
        fail(CredentialsRefused("this machine's certificate has expired: get a new token and join again"))

    async def _keep(self) -> None:
        try:
            await self._credentials.keep()
        except LeptonError as error:
            _log.warning("the new certificate of this machine is in memory only", why=str(error))

    def _due(self) -> datetime:
        certificate = self._credentials.node.certificate
        life = certificate.not_valid_after_utc - certificate.not_valid_before_utc - CLOCK_SKEW
        return self._credentials.expires - min(EARLY, life / 3)

    async def _newer(self) -> Holder:
        """The node with a certificate that is valid for longer: from the folder, the authority's key, or a member."""
        here = await asyncio.to_thread(self._from_folder)
        return here if here is not None else await self._from_members()

    def _from_folder(self) -> Holder | None:
        """What ``keys renew`` has put there, or what the authority's key, if it is there, signs now."""
        folder, node = self._credentials.folder, self._credentials.node
        if folder is None:
            return None
        try:
            if self._is_better(held := folder.node()):
                return held
            if not folder.has_authority_key:
                return None
            chain = certify_node(
                folder.issuer(), node.key.public_key(), name_of(node.certificate), may_issue=node.depth > 0
            )
        except (ConfigError, CredentialsRefused) as error:
            _log.debug("the folder holds nothing newer", why=str(error))
            return None
        made = Holder(node.key, chain, node.authority)
        return made if self._is_better(made) else None

    async def _from_members(self) -> Holder:
        node, members = self._credentials.node, self._members()
        issuers = self._credentials.security.issuers()
        request = write_request(node.swarm, name_of(node.certificate), node.key)
        waiting = deque(member.address for member in sorted(members, key=lambda member: member.id not in issuers))
        asked, reasons = set[str](), list[str]()
        while waiting and len(asked) < _MOST_ASKED:
            address = waiting.popleft()
            if address in asked:
                continue
            asked.add(address)
            try:
                answer = await self._ask(address, request)
                if not answer.chain:
                    waiting.extendleft(answer.issuers)
                    reasons.append(f"the peer at {address} may not certify others")
                elif self._is_better(found := accept(answer.chain, node.key, node.authority)):
                    return found
                else:
                    reasons.append(f"what the peer at {address} can give ends no later, or allows less")
            except LeptonError as error:
                reasons.append(str(error))
        raise CredentialsRefused("; ".join(reasons) or "there is no other member to ask")

    def _is_better(self, found: Holder) -> bool:
        """Valid for longer, for the same key, with no fewer rights."""
        node = self._credentials.node
        expires = read_bearer(found.chain, node.authority, now()).expires
        return found.id == node.id and expires > self._credentials.expires and found.depth >= node.depth
