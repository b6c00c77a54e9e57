"""The one outgoing ring link of an epoch: opened when the epoch is installed, kept while its right neighbour stays."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from lepton_p2p.errors import LeptonError
from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.rounds.epoch import Epoch
from lepton_p2p.tasks import OwnedTasks
from lepton_p2p.transport.links.link import Link, Purpose

Connect = Callable[[PeerInfo, Purpose], Awaitable[Link]]


class RingLink:
    """Opens and keeps the link to the right neighbour.

    ``on_lost(tag, peer, reason)`` is called when it breaks or cannot be opened, also between rounds: a killed
    neighbour is noticed at once, not when it is needed.
    """

    def __init__(
        self, me: PeerId, connect: Connect, on_lost: Callable[[int, PeerId, str], None], tasks: OwnedTasks
    ) -> None:
        self._me, self._connect, self._on_lost, self._tasks = me, connect, on_lost, tasks
        self._tag = 0
        self._right: PeerInfo | None = None
        self._link: Link | None = None
        self._opening: asyncio.Task[None] | None = None
        self._waiting: Callable[[Link | None], None] | None = None

    @property
    def link(self) -> Link | None:
        """The open link to the right neighbour, if there is one now."""
        return self._link

    def move(self, epoch: Epoch) -> None:
        """Belong to ``epoch`` from now on."""
        self._tag, self._waiting = epoch.tag, None
        right = None
        if len(epoch.members) > 1:
            neighbour = epoch.right_of(self._me)
            right = next(member.peer for member in epoch.members if member.id == neighbour)
        if right != self._right or self._link is None or self._link.closed is not None:
            self.drop("the ring has changed")
            self._right = right
            if right is not None:
                self._opening = self._tasks.spawn(self._open(right), f"open ring link to {right.address}")

    def drop(self, reason: str) -> None:
        """Close the link; the remote sees that it is not this peer's right neighbour any more."""
        self._waiting = None
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        link, self._link, self._right = self._link, None, None
        if link is not None:
            link.abort(reason)

    def when_ready(self, then: Callable[[Link | None], None]) -> None:
        """Call ``then`` with the link (None in an epoch of one), now or when it is open; a later call replaces it.

        If the link was lost in this epoch it is never called: ``on_lost`` has said so, and a new epoch follows.
        """
        self._waiting = None
        if self._right is None:
            then(None)
        elif self._link is not None and self._link.closed is None:
            then(self._link)
        else:
            self._waiting = then

    def cancel(self) -> None:
        """Nobody waits for the link any more."""
        self._waiting = None

    async def _open(self, right: PeerInfo) -> None:
        try:
            link = await self._connect(right, Purpose.RING)
        except LeptonError as error:
            self._opening = None
            self._lost(right.id, str(error))
            return
        self._link, self._opening = link, None
        link.watch(lambda reason: self._link_lost(link, right.id, reason))
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting(link)

    def _link_lost(self, link: Link, peer: PeerId, reason: str) -> None:
        if self._link is link:
            self._link = None
            self._lost(peer, reason)

    def _lost(self, peer: PeerId, reason: str) -> None:
        self._on_lost(self._tag, peer, f"the link to it is gone: {reason}")
