"""Strategies' messages between real nodes: who can be reached, what arrives, and who hears that a peer is gone."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Future
from contextlib import AsyncExitStack
from typing import Any

import pytest

from lepton_p2p.collectives.push import NotSent
from lepton_p2p.errors import Closed, SwarmUnreachable
from lepton_p2p.identity import PeerId
from lepton_p2p.membership import DeclaredDead
from lepton_p2p.presets import timings
from lepton_p2p.rounds.effects import DroppedOut, Installed
from lepton_p2p.rounds.epoch import Ballot, Epoch, Member
from lepton_p2p.rounds.messages import Decision
from lepton_p2p.runtime.job_host import JobHost
from lepton_p2p.runtime.node import Node
from lepton_p2p.runtime.options import NodeOptions
from lepton_p2p.runtime.services import services
from lepton_p2p.training.collective import PairExchange, PushHandler
from lepton_p2p.transport.handlers import Handlers

DEADLINE = 20.0


class Running:
    """A node as a peer has it, without a job."""

    def __init__(self, seeds: tuple[str, ...]) -> None:
        local = timings("local")
        self.node = Node(NodeOptions(join=seeds, swim=local.swim, patience=local.patience, agreement=local.agreement))
        self.host: JobHost

    def services(self, node: Node) -> Handlers:
        self.host = JobHost(node, job=None, file=None)
        return services(node, self.host)

    @property
    def id(self) -> PeerId:
        return self.node.me.id

    @property
    def exchange(self) -> PairExchange:
        """Nothing but what strategies are promised."""
        return self.host.exchange

    def take(self, size: int, handler: PushHandler) -> None:
        self.host.exchange.expect(size)
        self.exchange.on_push(handler)

    async def sees(self, *others: Running) -> None:
        """Wait until these are whom it can push to."""
        wanted = tuple(sorted(other.id for other in others))
        await self.until(lambda: self.exchange.alive() == wanted)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Every change of the view or the epoch is told as an event."""
        async with asyncio.timeout(DEADLINE):
            events = self.node.events.subscribe()
            while not condition():
                await anext(events)

    async def aclose(self) -> None:
        await self.host.aclose()
        await self.node.aclose()


Swarm = Callable[[int], Coroutine[Any, Any, list[Running]]]


@pytest.fixture
async def swarm() -> AsyncIterator[Swarm]:
    """Starts n nodes that know each other and are in no epoch."""
    async with AsyncExitStack() as stack:

        async def start(count: int) -> list[Running]:
            peers: list[Running] = []
            for _ in range(count):
                peer = Running(tuple(peer.node.me.address for peer in peers[:1]))
                await peer.node.start(peer.services)
                stack.push_async_callback(peer.aclose)
                peers.append(peer)
            for peer in peers:
                await peer.sees(*(other for other in peers if other is not peer))
            return peers

        yield start


def within(future: Future[bool]) -> Coroutine[Any, Any, bool]:
    return asyncio.wait_for(asyncio.wrap_future(future), DEADLINE)


async def test_pushes_from_training_threads_arrive_bit_by_bit(swarm: Swarm) -> None:
    one, other = await swarm(2)
    payload = random.Random(1).randbytes(3_000_017)
    got: list[tuple[PeerId, bytes, bytes, str]] = []

    def handler(sender: PeerId, header: bytes, data: memoryview) -> bool:
        got.append((sender, header, bytes(data), threading.current_thread().name))
        return len(got) == 1

    other.take(len(payload), handler)

    def train() -> list[bool]:
        pushes = [one.exchange.push(other.id, header, memoryview(payload)) for header in (b"first", b"second")]
        return [push.result(DEADLINE) for push in pushes]

    assert await asyncio.to_thread(train) == [True, False]
    assert [(sender, header) for sender, header, _, _ in got] == [(one.id, b"first"), (one.id, b"second")]
    assert all(data == payload for _, _, data, _ in got)
    assert threading.current_thread().name not in {thread for *_, thread in got}, "the loop goes on meanwhile"


async def test_in_an_epoch_only_its_members_count(swarm: Swarm) -> None:
    one, other, outside = await swarm(3)
    one.node.enter(job="job", found=True)
    other.node.enter(job="job", found=False)
    await one.sees(other)
    await other.sees(one)
    await outside.sees(one, other)


async def test_a_peer_that_left_is_told_of_on_the_loop_and_cannot_be_pushed_to(swarm: Swarm) -> None:
    one, other = await swarm(2)
    gone: list[tuple[PeerId, threading.Thread]] = []
    one.exchange.on_gone(lambda peer: gone.append((peer, threading.current_thread())))
    other.take(0, lambda sender, header, payload: True)
    assert await within(one.exchange.push(other.id, b"", memoryview(b"")))
    await other.node.leave()
    await other.aclose()
    await one.sees()
    assert gone == [(other.id, threading.current_thread())]
    with pytest.raises(NotSent, match="not alive"):
        await within(one.exchange.push(other.id, b"", memoryview(b"")))


async def test_a_partner_that_is_killed_without_a_word_ends_the_push_and_is_gone(swarm: Swarm) -> None:
    one, other = await swarm(2)
    gone: list[PeerId] = []
    one.exchange.on_gone(gone.append)
    begun, gate = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def handler(sender: PeerId, header: bytes, payload: memoryview) -> bool:
        loop.call_soon_threadsafe(begun.set)
        return gate.wait(DEADLINE)

    other.take(4, handler)
    push = one.exchange.push(other.id, b"", memoryview(b"data"))
    await asyncio.wait_for(begun.wait(), DEADLINE)
    await other.node.aclose()
    with pytest.raises(SwarmUnreachable, match=r"lost during a push|cut off") as unknown:
        await within(push)
    assert not isinstance(unknown.value, NotSent)
    await one.until(lambda: gone == [other.id])
    gate.set()


async def test_a_strategy_hears_that_the_swarm_went_on_without_its_peer_but_not_that_others_believed_it_dead(
    swarm: Swarm,
) -> None:
    (peer,) = await swarm(1)
    heard: list[int] = []
    peer.exchange.on_dropped(lambda: heard.append(1))
    peer.node._membership_event(DeclaredDead())
    assert heard == []
    peer.node._round_event(DroppedOut("a larger swarm was met"))
    assert heard == [1]


async def test_a_strategy_that_begins_when_its_founder_was_left_behind_hears_so_at_once(swarm: Swarm) -> None:
    (peer,) = await swarm(1)
    heard: list[int] = []
    epoch = Epoch(1, Ballot(1, peer.id), (Member(peer.node.me, 1),))
    peer.node._round_event(Installed(epoch, Decision(0, 0, (), 0)))
    peer.node._round_event(DroppedOut("a larger swarm was met"))
    peer.exchange.on_dropped(lambda: heard.append(1))
    assert peer.node.founded, "it has a state to start from, if nobody else has one"
    assert heard == [1]


async def test_after_close_nothing_is_sent_taken_or_told(swarm: Swarm) -> None:
    one, other, third = await swarm(3)
    gone: list[PeerId] = []
    got: list[bytes] = []

    def handler(sender: PeerId, header: bytes, payload: memoryview) -> bool:
        got.append(header)
        return True

    one.exchange.on_gone(gone.append)
    one.take(0, handler)
    assert await within(other.exchange.push(one.id, b"before", memoryview(b"")))
    one.host.exchange.close()
    with pytest.raises(Closed):
        await within(one.exchange.push(other.id, b"", memoryview(b"")))
    with pytest.raises(NotSent):
        await within(third.exchange.push(one.id, b"after", memoryview(b"")))
    await third.node.leave()
    await one.sees(other)
    assert got == [b"before"]
    assert gone == []
