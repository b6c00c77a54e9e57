"""The outgoing links: opened with the epoch or when needed, and never replaced within it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from lepton_p2p.collectives.epoch_links import EpochLinks
from lepton_p2p.errors import SwarmUnreachable
from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.rounds.epoch import Ballot, Epoch, Member
from lepton_p2p.tasks import OwnedTasks
from lepton_p2p.transport.links.link import Link, Purpose

ME, YOU, THIRD = (PeerInfo(PeerId(f"{number:032x}"), f"127.0.0.1:{number}") for number in (1, 2, 3))


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
    """Links whose connections are fakes, and what was said of them."""

    def __init__(self) -> None:
        self.links: list[FakeLink] = []
        self.to: list[PeerInfo] = []
        self.unreachable = False
        self.lost: list[tuple[int, PeerId]] = []
        self.started: list[FakeLink | None] = []
        self.meshed: list[dict[PeerId, Link]] = []
        self.ring = EpochLinks(ME.id, self._connect, lambda tag, peer, _: self.lost.append((tag, peer)), OwnedTasks())

    async def _connect(self, peer: PeerInfo, purpose: Purpose) -> Link:
        assert purpose is Purpose.RING
        if self.unreachable:
            raise SwarmUnreachable("nobody answers")
        self.links.append(FakeLink())
        self.to.append(peer)
        return cast(Link, self.links[-1])

    async def settle(self) -> None:
        for _ in range(3):
            await asyncio.sleep(0)

    def when_ready(self) -> None:
        def start(links: dict[PeerId, Link]) -> None:
            self.started.append(cast("FakeLink | None", next(iter(links.values()), None)))

        self.ring.when_ready(start)

    def when_all_ready(self) -> None:
        self.ring.when_all_ready(self.meshed.append)


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


async def test_links_to_all_others_are_opened_when_they_are_needed_and_used_again() -> None:
    bench = Bench()
    bench.ring.move(epoch(1, ME, YOU, THIRD))
    await bench.settle()
    assert bench.to == [YOU], "a ring needs no more"
    bench.when_all_ready()
    assert bench.meshed == []
    await bench.settle()
    bench.when_all_ready()
    assert bench.to == [YOU, THIRD]
    assert [set(links) for links in bench.meshed] == [{YOU.id, THIRD.id}] * 2


async def test_links_to_all_may_be_opened_before_they_are_used() -> None:
    bench = Bench()
    bench.ring.move(epoch(1, ME, YOU, THIRD))
    bench.ring.open_all()
    bench.ring.open_all()
    await bench.settle()
    bench.when_all_ready()
    assert bench.to == [YOU, THIRD]
    assert len(bench.meshed) == 1


async def test_who_is_alone_needs_no_links_to_all() -> None:
    bench = Bench()
    bench.ring.move(epoch(1, ME))
    bench.when_all_ready()
    assert bench.meshed == [{}]


async def test_links_to_members_that_stay_are_kept_when_the_ring_changes() -> None:
    bench = Bench()
    bench.ring.move(epoch(1, ME, YOU, THIRD))
    bench.when_all_ready()
    await bench.settle()
    bench.ring.move(epoch(2, ME, THIRD))
    yours, thirds = bench.links
    assert (yours.closed, thirds.closed) == ("the ring has changed", None)
    bench.when_ready()
    assert bench.started == [thirds], "it is the right neighbour's now"
    assert bench.lost == []


async def test_links_that_the_last_epoch_did_not_need_are_closed_with_the_next() -> None:
    bench = Bench()
    bench.ring.move(epoch(1, ME, YOU, THIRD))
    bench.when_all_ready()
    await bench.settle()
    bench.ring.move(epoch(2, ME, YOU, THIRD))
    bench.when_ready()
    assert bench.links[1].closed is None, "it may be needed again"
    bench.ring.move(epoch(3, ME, YOU, THIRD))
    assert [link.closed for link in bench.links] == [None, "the ring has changed"]


async def test_a_link_that_was_lost_is_told_of_again_when_all_are_needed() -> None:
    bench = Bench()
    at = epoch(1, ME, YOU, THIRD)
    bench.ring.move(at)
    bench.when_all_ready()
    await bench.settle()
    bench.links[1].abort("killed")
    assert bench.lost == [(at.tag, THIRD.id)]
    bench.meshed.clear()
    bench.when_all_ready()
    await bench.settle()
    assert bench.lost == [(at.tag, THIRD.id)] * 2
    assert bench.meshed == []
    assert bench.to == [YOU, THIRD], "links are not opened again within an epoch"
