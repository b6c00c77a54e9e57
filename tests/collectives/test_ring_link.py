"""The outgoing ring link: opened with the epoch, and never replaced within it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from lepton_p2p.collectives.ring_link import RingLink
from lepton_p2p.errors import SwarmUnreachable
from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.rounds.epoch import Ballot, Epoch, Member
from lepton_p2p.tasks import OwnedTasks
from lepton_p2p.transport.links.link import Link, Purpose

ME, YOU = (PeerInfo(PeerId(f"{number:032x}"), f"127.0.0.1:{number}") for number in (1, 2))


def epoch(number: int, *peers: PeerInfo) -> Epoch:
    return Epoch(number, Ballot(number, peers[0].id), tuple(Member(peer, 1) for peer in peers))


class FakeLink:
    """What a ring link uses of a link."""

    def __init__(self) -> None:
        self.closed: str | None = None
        self._watchers: list[Callable[[str], None]] = []

    def watch(self, on_lost: Callable[[str], None]) -> None:
        self._watchers.append(on_lost)

    def abort(self, reason: str) -> None:
        self.closed = reason
        for watcher in self._watchers:
            watcher(reason)


class Bench:
    """A ring link whose connections are fakes, and what it said."""

    def __init__(self) -> None:
        self.links: list[FakeLink] = []
        self.unreachable = False
        self.lost: list[tuple[int, PeerId]] = []
        self.started: list[FakeLink | None] = []
        self.ring = RingLink(ME.id, self._connect, lambda tag, peer, _: self.lost.append((tag, peer)), OwnedTasks())

    async def _connect(self, peer: PeerInfo, purpose: Purpose) -> Link:
        assert (peer, purpose) == (YOU, Purpose.RING)
        if self.unreachable:
            raise SwarmUnreachable("nobody answers")
        self.links.append(FakeLink())
        return cast(Link, self.links[-1])

    async def settle(self) -> None:
        for _ in range(3):
            await asyncio.sleep(0)

    def when_ready(self) -> None:
        self.ring.when_ready(lambda link: self.started.append(cast("FakeLink | None", link)))


async def test_who_is_alone_needs_no_link() -> None:
    bench = Bench()
    bench.ring.move(epoch(1, ME))
    bench.when_ready()
    assert bench.started == [None]


async def test_an_attempt_waits_for_the_link_and_the_next_one_uses_it_again() -> None:
    bench = Bench()
    bench.ring.move(epoch(1, ME, YOU))
    bench.when_ready()
    assert bench.started == []
    await bench.settle()
    bench.when_ready()
    assert bench.started == [bench.links[0]] * 2


async def test_a_neighbour_that_stays_keeps_its_link_in_the_next_epoch() -> None:
    bench = Bench()
    bench.ring.move(epoch(1, ME, YOU))
    await bench.settle()
    bench.ring.move(epoch(2, ME, YOU))
    bench.when_ready()
    assert bench.started == bench.links
    assert len(bench.links) == 1


async def test_no_attempt_starts_after_the_link_was_lost_until_the_next_epoch_opens_another() -> None:
    bench = Bench()
    first, second = epoch(1, ME, YOU), epoch(2, ME, YOU)
    bench.ring.move(first)
    await bench.settle()
    bench.links[0].abort("killed")
    assert bench.lost == [(first.tag, YOU.id)]
    bench.when_ready()
    await bench.settle()
    assert bench.started == [], "neither without a link, as if alone, nor on another one"
    bench.ring.move(second)
    bench.when_ready()
    await bench.settle()
    assert bench.started == [bench.links[1]]


async def test_a_link_that_cannot_be_opened_is_reported_and_tried_again_in_the_next_epoch() -> None:
    bench = Bench()
    bench.unreachable = True
    bench.ring.move(epoch(1, ME, YOU))
    bench.when_ready()
    await bench.settle()
    assert bench.lost == [(epoch(1, ME, YOU).tag, YOU.id)]
    bench.unreachable = False
    bench.ring.move(epoch(2, ME, YOU))
    bench.when_ready()
    await bench.settle()
    assert bench.started == bench.links
