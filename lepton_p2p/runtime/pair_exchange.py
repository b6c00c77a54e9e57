"""Pairwise messages of a node for strategies without a barrier: ``training.PairExchange`` over push links."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from lepton_p2p.collectives.push import Pusher
from lepton_p2p.collectives.push_inbox import PushInbox
from lepton_p2p.errors import SwarmUnreachable
from lepton_p2p.identity import PeerId, short
from lepton_p2p.runtime.node import Node
from lepton_p2p.training.collective import PushHandler
from lepton_p2p.transport.links.link import Link, Purpose


class LinkExchange:
    """Made on the node's loop, after its hub and machines exist; from then on the node accepts push links.

    Strategies call from their own thread.  Push handlers run on threads; callbacks of :meth:`on_gone` and
    :meth:`on_dropped`, and those of the futures, run on the loop: they must be quick and must not block.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._gone: list[Callable[[PeerId], None]] = []
        self._dropped: list[Callable[[], None]] = []
        self._pusher = Pusher(self._connect, node.tasks)
        self._inbox = PushInbox(node.tasks)
        node.hub.serve(Purpose.PUSH, self._inbox.accept)
        node.on_gone.append(self._tell_gone)
        node.on_dropped.append(self._tell_dropped)

    def alive(self) -> tuple[PeerId, ...]:
        """Whom this peer believes to be alive, without itself; in an epoch, its members only (they share the job)."""
        # From any thread: the view copies its table in one step, and its entries never change.
        others = {peer.id for peer in self._node.view()} - {self._node.me.id}
        epoch = self._node.rounds.epoch
        return tuple(sorted(others if epoch is None else others.intersection(epoch.ids)))

    def push(self, partner: PeerId, header: bytes, payload: memoryview) -> Future[bool]:
        """See ``training.PairExchange`` and ``Pusher.push``.  ``NotSent``: the partner certainly did not get it."""
        return self._pusher.push(partner, header, payload)

    def expect(self, nbytes: int) -> None:
        """Size of the payloads that partners push here, bytes: others are refused unread and their link is closed.

        To be called before partners push; until then only messages without payload are taken.
        """
        self._inbox.expect(nbytes)

    def on_push(self, handler: PushHandler) -> None:
        """``handler`` is called for what comes in, on a thread, for several senders at a time."""
        self._inbox.serve(handler)

    def on_gone(self, callback: Callable[[PeerId], None]) -> None:
        """``callback(peer)`` is called on the loop when ``peer`` is confirmed dead or has left."""
        self._gone.append(callback)

    def on_dropped(self, callback: Callable[[], None]) -> None:
        """``callback()`` is called on the loop when this peer learns that the swarm went on without it.

        At once if it has been so since it founded its lineage: who makes its model meanwhile has no say either.
        """
        self._dropped.append(callback)
        if self._node.left_behind:
            callback()

    def close(self) -> None:
        """On the loop: give up what is on its way (``Closed``), take nothing more, call nobody any more."""
        self._gone.clear()
        self._dropped.clear()
        self._pusher.close()
        self._inbox.close()

    async def _connect(self, partner: PeerId) -> Link:
        for peer in self._node.view():
            if peer.id == partner:
                return await self._node.connect(peer, Purpose.PUSH)
        raise SwarmUnreachable(f"peer {short(partner)} is not alive, as far as this peer knows")

    def _tell_gone(self, peer: PeerId) -> None:
        self._pusher.drop(peer, "the partner is gone")
        self._inbox.drop(peer, "the sender is gone")
        for callback in tuple(self._gone):
            callback(peer)

    def _tell_dropped(self) -> None:
        for callback in tuple(self._dropped):
            callback()
