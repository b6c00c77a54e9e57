"""Two real membership machines, each behind a real server, find and lose each other over gRPC."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import AsyncExitStack

from lepton_p2p.driver import MachineDriver
from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.membership import Died, Joined, Left, Swim, SwimConfig
from lepton_p2p.membership.messages import Packet
from lepton_p2p.transport.channels import Channels
from lepton_p2p.transport.handlers import Handlers
from lepton_p2p.transport.server import ControlServer

DEADLINE = 20.0


class Peer:
    """One membership machine with its server and channels."""

    def __init__(self, number: int) -> None:
        self.id = PeerId(f"{number:032x}")
        self.number = number
        self.events: list[object] = []
        self.changed = asyncio.Event()
        self.server = ControlServer("127.0.0.1:0", swarm="test")
        self.channels = Channels(swarm="test", me=self.id)
        self.crashes: list[Exception] = []
        self.swim: Swim
        self.driver: MachineDriver[Swim, Packet]

    async def start(self, *seeds: str) -> str:
        address = await self.server.bind()
        self.swim = Swim(PeerInfo(self.id, address), SwimConfig.local(), random.Random(self.number))
        self.driver = MachineDriver(
            self.swim,
            send=lambda to, packet: self.channels.deliver_packet(to, packet, 2.0),
            on_event=self.note,
            on_crash=self.crashes.append,
            width=8,
        )
        await self.server.start(Handlers(membership=self))
        self.driver.feed(self.swim.start, seeds=seeds)
        return address

    async def deliver(self, packet: Packet) -> None:
        self.driver.feed(self.swim.receive, packet)

    def note(self, event: object) -> None:
        self.events.append(event)
        self.changed.set()

    async def until(self, condition: Callable[[object], bool]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not any(map(condition, self.events)):
                self.changed.clear()
                await self.changed.wait()

    async def aclose(self) -> None:
        await self.driver.aclose()
        await self.channels.close()
        await self.server.stop(0)


async def test_two_peers_meet_and_one_leaves() -> None:
    async with AsyncExitStack() as stack:
        one, other = Peer(1), Peer(2)
        seed = await one.start()
        stack.push_async_callback(one.aclose)
        await other.start(seed)
        stack.push_async_callback(other.aclose)
        await one.until(lambda e: isinstance(e, Joined) and e.peer.id == other.id)
        await other.until(lambda e: isinstance(e, Joined) and e.peer.id == one.id)
        other.driver.feed(other.swim.leave)
        await other.driver.flush()
        await one.until(lambda e: isinstance(e, Left) and e.peer.id == other.id)
        assert one.crashes == other.crashes == []


async def test_a_peer_that_vanishes_is_noticed() -> None:
    async with AsyncExitStack() as stack:
        one, other = Peer(3), Peer(4)
        seed = await one.start()
        stack.push_async_callback(one.aclose)
        await other.start(seed)
        await one.until(lambda e: isinstance(e, Joined) and e.peer.id == other.id)
        await other.aclose()
        await one.until(lambda e: isinstance(e, Died) and e.peer.id == other.id)
        assert one.crashes == []
