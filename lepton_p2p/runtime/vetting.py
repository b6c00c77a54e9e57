"""Packets on their way to the failure detector of a swarm with credentials.

What can be judged at once is handed on at once: an ack must not wait.  Claims of and about processes that this peer
has not met wait until whoever told of them has shown their certificates; full exchanges, which hold many signatures,
are verified on a thread.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final, TypeVar

import structlog

from lepton_p2p.errors import LeptonError
from lepton_p2p.identity import short
from lepton_p2p.membership.events import Refused
from lepton_p2p.membership.messages import Gossip, Packet, Rumour, Status, Sync
from lepton_p2p.membership.notary import ACCUSATIONS
from lepton_p2p.runtime.acquaintances import Chain
from lepton_p2p.runtime.claims import Check
from lepton_p2p.runtime.node_credentials import NodeCredentials
from lepton_p2p.tasks import OwnedTasks
from lepton_p2p.transport.wire_credentials import MAX_CHAINS

Item = TypeVar("Item")

_log = structlog.get_logger(__name__)

LIGHT: Final = 64
"""Claims that are verified on the loop, if need be: a tenth of a millisecond each."""
_OF_ONE: Final = 4
"""Packets of one sender that may wait."""
_OF_ALL: Final = 64
_MOST_LIARS: Final = 1000
_SLICE: Final = 100
"""Signatures that are verified before it is looked whether one was forged: the rest is not worth the time then."""

Show = Callable[[str, Sequence[str]], Awaitable[Sequence[Chain]]]
"""``show(address, ids)``: ask the peer there for the certificates of these processes."""


class Vetting:
    """feed: takes packets whose claims can be judged without waiting.  show: see :data:`Show`.  news: those claims that
    are not believed already.
    """

    def __init__(
        self,
        credentials: NodeCredentials,
        *,
        show: Show,
        news: Callable[[Sequence[Rumour]], Sequence[Rumour]],
        feed: Callable[[Packet], None],
        tasks: OwnedTasks,
    ) -> None:
        self._machine_of = credentials.machine_of
        self._claims = credentials.claims
        self._acquaintances = credentials.acquaintances
        self._show = show
        self._news = news
        self._feed = feed
        self._tasks = tasks
        self._waiting: Counter[str] = Counter()
        self._liars: set[str] = set()

    def deliver(self, packet: Packet) -> None:
        """A packet has come from its sender itself (its certificate says so)."""
        if isinstance(packet.body, Sync) or len(packet.rumours) > LIGHT:
            self._later(packet)
            return
        ready = tuple(rumour for rumour in packet.rumours if not self._strangers((rumour,)))
        self._feed(replace(packet, rumours=ready))
        if len(ready) < len(packet.rumours):
            rest = tuple(rumour for rumour in packet.rumours if rumour not in ready)
            self._later(Packet(packet.sender, Gossip(), rest))

    def refused(self, claim: Refused) -> None:
        """The machine dropped ``claim``: say so once of every sender, in words that say what to do."""
        sender = claim.sender
        if not claim.forged or sender.id in self._liars:
            _log.debug("a claim was dropped", sender=short(sender.id), claim=claim.said, forged=claim.forged)
            return
        if len(self._liars) < _MOST_LIARS:
            self._liars.add(sender.id)
        node, name = self._machine_of(sender.id)
        _log.warning(
            "a member tells forged claims about others, which are dropped (said once for each): "
            "if its machine is not broken, throw it out with lepton-peer keys revoke",
            sender=short(sender.id),
            address=sender.address,
            node=short(node),
            name=name,
            claim=claim.said,
        )

    def _later(self, packet: Packet) -> None:
        """Rumours are told often, and exchanges repeated: what there is no room for comes again."""
        sender = packet.sender.id
        if self._waiting[sender] >= _OF_ONE or self._waiting.total() >= _OF_ALL:
            _log.debug("claims that need certificates were not looked at", sender=short(sender))
            return
        self._waiting[sender] += 1
        self._tasks.spawn(self._settle(packet), f"judge claims told by {short(sender)}")

    async def _settle(self, packet: Packet) -> None:
        try:
            told = self._news((*packet.rumours, *(packet.body.members if isinstance(packet.body, Sync) else ())))
            await self._meet(packet.sender.address, self._strangers(told))
            forged = await self._judge(told)
            # Of what a liar says, only the lie is handed on, to be counted.
            self._feed(packet if forged is None else Packet(packet.sender, Gossip(), (forged,)))
        finally:
            self._waiting[packet.sender.id] -= 1
            if not self._waiting[packet.sender.id]:
                del self._waiting[packet.sender.id]

    async def _judge(self, told: Sequence[Rumour]) -> Rumour | None:
        """Verify what has not been verified yet, up to a claim that is forged, which is returned."""
        checks = self._claims.checks(told)
        for check in checks:
            if self._claims.judged(check) is False:  # a forgery that was told before
                return check.rumour
        for some in _slices([check for check in checks if self._claims.judged(check) is None], _SLICE):
            verdicts = await asyncio.to_thread(_verdicts, some)
            for check, holds in zip(some, verdicts, strict=True):
                self._claims.remember(check, holds)
            if not all(verdicts):
                return some[verdicts.index(False)].rumour
        return None

    async def _meet(self, address: str, strangers: list[str]) -> None:
        """Get the certificates of ``strangers`` from who told of them."""
        try:
            for ids in _slices(strangers, MAX_CHAINS):
                chains = await self._show(address, ids)
                bearers = await asyncio.to_thread(self._acquaintances.verify, chains)
                self._acquaintances.introduce(bearers, frozenset(ids))
        except LeptonError as error:
            _log.debug("certificates could not be had (yet)", address=address, why=str(error))

    def _strangers(self, rumours: Iterable[Rumour]) -> list[str]:
        """Ids of signers whose certificates this peer has not seen, each once."""
        signers = dict.fromkeys(signer for rumour in rumours for signer in self._signers(rumour))
        return [signer for signer in signers if signer and not self._acquaintances.knows(signer)]

    def _signers(self, rumour: Rumour) -> tuple[str, ...]:
        subject = rumour.peer.id
        if rumour.status is Status.DEAD and not self._acquaintances.knows(subject):
            return ()  # nobody waits for the news that somebody unknown is dead
        return (subject, rumour.origin) if rumour.status in ACCUSATIONS else (subject,)


def _slices(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _verdicts(checks: Sequence[Check]) -> list[bool]:
    return [check.holds() for check in checks]
