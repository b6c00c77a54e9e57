"""Two hubs that open links to each other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from lepton_p2p.identity import PeerId
from lepton_p2p.transport.links import Link, LinkHub, Purpose, Ticket
from lepton_p2p.transport.links.keys import KeyShare

ALICE, BOB = PeerId("a" * 32), PeerId("b" * 32)
DEADLINE = 10.0


class Accepted:
    """An acceptor that queues what it gets."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Link] = asyncio.Queue()

    def __call__(self, link: Link) -> None:
        self.queue.put_nowait(link)

    async def next(self) -> Link:
        return await asyncio.wait_for(self.queue.get(), DEADLINE)


class Side:
    """A started hub and what it accepted."""

    def __init__(self, me: PeerId | None, **options: Any) -> None:
        self.hub = LinkHub(me, host="127.0.0.1", **{"handshake_timeout": 5.0, **options})
        self.accepted = Accepted()
        self.hub.serve(Purpose.RING, self.accepted)


def lost(link: Link) -> asyncio.Future[str]:
    """Resolves with the reason when ``link`` is gone."""
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    link.watch(future.set_result)
    return future


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what nothing announces; fails at the deadline."""
    async with asyncio.timeout(DEADLINE):
        while True:
            if condition():
                return
            await asyncio.sleep(0.001)


async def closed_by_remote(reader: asyncio.StreamReader) -> bytes:
    """What a stranger still reads until the other side closes."""
    try:
        return await asyncio.wait_for(reader.read(), DEADLINE)
    except ConnectionError:
        return b""


def ask(alice: Side, bob: Side, purpose: Purpose = Purpose.RING) -> tuple[Ticket, KeyShare | None]:
    """A ticket of Bob's for Alice, as if she had asked for it over the control channel, and her half of the keys."""
    share = alice.hub.propose()
    return bob.hub.issue_ticket(alice.hub.me, purpose, b"" if share is None else share.public), share


async def connect(alice: Side, bob: Side, purpose: Purpose = Purpose.RING, *, port: int | None = None) -> Link:
    """Open a link from Alice to Bob, or to ``port``, where something stands between them."""
    ticket, share = ask(alice, bob, purpose)
    assert bob.hub.me is not None
    return await alice.hub.open(bob.hub.me, "127.0.0.1", replace(ticket, port=port or ticket.port), purpose, share)


async def ring_link(alice: Side, bob: Side, purpose: Purpose = Purpose.RING) -> tuple[Link, Link]:
    """From Alice to Bob, with the announcement of shared memory, if there is any, dealt with."""
    bob.hub.serve(purpose, bob.accepted)
    link = await connect(alice, bob, purpose)
    other = await bob.accepted.next()
    await until(lambda: other.statistics().bytes_received == link.statistics().bytes_sent)
    return link, other
