"""The outgoing links of an epoch: to the right neighbour from the start, to all members if they are needed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from lepton_p2p.errors import LeptonError
from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.rounds.epoch import Epoch
from lepton_p2p.tasks import OwnedTasks
from lepton_p2p.transport.links.link import Link, Purpose

Connect = Callable[[PeerInfo, Purpose], Awaitable[Link]]
Ready = Callable[[dict[PeerId, Link]], None]


class EpochLinks:
    """Opens and keeps the links that rounds send on.

    ``on_lost(tag, peer, reason)`` is called when one breaks or cannot be opened, also between rounds: a killed
    neighbour is noticed at once, not when it is needed.
    """

    def __init__(
        self, me: PeerId, connect: Connect, on_lost: Callable[[int, PeerId, str], None], tasks: OwnedTasks
    ) -> None:
        self._me, self._connect, self._on_lost, self._tasks = me, connect, on_lost, tasks
        self._tag = 0
        self._right: PeerId | None = None
        self._others: dict[PeerId, PeerInfo] = {}
        self._links: dict[PeerId, Link] = {}
        self._opening: dict[PeerId, asyncio.Task[None]] = {}
        self._broken: dict[PeerId, str] = {}
        """Whose link was lost in this epoch: it is not opened again."""
        self._all = False
        """Whether links to all members were needed in this epoch."""
        self._waiting: tuple[tuple[PeerId, ...], Ready] | None = None

    @property
    def right(self) -> Link | None:
        """The open link to the right neighbour, if there is one now."""
        return self._links.get(self._right) if self._right is not None else None

    def move(self, epoch: Epoch) -> None:
        """Belong to ``epoch`` from now on; links to those that are needed no more are closed."""
        others = {member.id: member.peer for member in epoch.members if member.id != self._me}
        right = epoch.right_of(self._me) if others else None
        self._tag, self._waiting, self._broken = epoch.tag, None, {}
        self._stop_opening()
        for peer in tuple(self._links):
            same = others.get(peer) == self._others.get(peer)
            if not same or not (peer == right or self._all):
                self._links.pop(peer).abort("the ring has changed")
        self._others, self._right, self._all = others, right, False
        if right is not None and right not in self._links:
            self._open(right)

    def drop(self, reason: str) -> None:
        """Close all links; the remotes see that this peer sends them nothing any more."""
        self._waiting, self._right, self._others = None, None, {}
        self._stop_opening()
        links, self._links = self._links, {}
        for link in links.values():
            link.abort(reason)

    def when_ready(self, then: Ready) -> None:
        """Call ``then`` with the link to the right neighbour (nothing in an epoch of one), now or when it is open.

        A later call, of :meth:`when_all_ready` as well, replaces it.  If the link was lost in this epoch it is never
        called: ``on_lost`` has said so, and a new epoch follows.
        """
        self._wait(() if self._right is None else (self._right,), then)

    def when_all_ready(self, then: Ready) -> None:
        """:meth:`when_ready` with links to all other members; if one was lost, ``on_lost`` says so once more."""
        self.open_all()
        self._wait(tuple(self._others), then)
        for peer, reason in self._broken.items():
            asyncio.get_running_loop().call_soon(self._tell_again, self._tag, peer, reason)

    def open_all(self) -> None:
        """Links to all other members are needed, or soon will be."""
        self._all = True
        for peer in self._others:
            if peer not in self._links and peer not in self._opening and peer not in self._broken:
                self._open(peer)

    def cancel(self) -> None:
        """Nobody waits for links any more."""
        self._waiting = None

    def _wait(self, needed: tuple[PeerId, ...], then: Ready) -> None:
        self._waiting = needed, then
        self._look()

    def _look(self) -> None:
        if self._waiting is None:
            return
        needed, then = self._waiting
        if all(peer in self._links and self._links[peer].closed is None for peer in needed):
            self._waiting = None
            then({peer: self._links[peer] for peer in needed})

    def _stop_opening(self) -> None:
        opening, self._opening = self._opening, {}
        for task in opening.values():
            task.cancel()

    def _open(self, peer: PeerId) -> None:
        info = self._others[peer]
        self._opening[peer] = self._tasks.spawn(self._run(info), f"open ring link to {info.address}")

    async def _run(self, peer: PeerInfo) -> None:
        try:
            link = await self._connect(peer, Purpose.RING)
        except LeptonError as error:
            del self._opening[peer.id]
            self._lost(peer.id, str(error))
            return
        del self._opening[peer.id]
        self._links[peer.id] = link
        link.watch(lambda reason: self._link_lost(link, peer.id, reason))
        self._look()

    def _link_lost(self, link: Link, peer: PeerId, reason: str) -> None:
        if self._links.get(peer) is link:
            del self._links[peer]
            self._lost(peer, reason)

    def _lost(self, peer: PeerId, reason: str) -> None:
        self._broken[peer] = f"the link to it is gone: {reason}"
        self._on_lost(self._tag, peer, self._broken[peer])

    def _tell_again(self, tag: int, peer: PeerId, reason: str) -> None:
        if tag == self._tag:
            self._on_lost(tag, peer, reason)
