"""Boards around a ring: made by the first member, handed on by each, used when all have said that they have it."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import os
import sys
from collections.abc import Sequence

import pytest
import ring_harness
import structlog.testing
import torch
from attempts import epoch_of, peer, until
from descriptors import open_named
from ring_harness import Ring

from lepton_p2p.collectives.boards import Boards
from lepton_p2p.rounds.board_choice import SMALLEST
from lepton_p2p.rounds.epoch import Epoch
from lepton_p2p.rounds.records import Flag, Record
from lepton_p2p.tasks import OwnedTasks
from lepton_p2p.transport.links import Link, memory
from lepton_p2p.transport.links.frames import Kind, encode

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="shared memory needs memfd_create and abstract sockets")
SIZE = 4 * SMALLEST


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory between neighbours, and none left by the test before."""
    monkeypatch.setattr(ring_harness, "WAY", "memory")
    gc.collect()


def open_boards() -> int:
    return open_named("lepton-board")


class Members:
    """The boards of all members of a ring, in one epoch."""

    def __init__(self, ring: Ring) -> None:
        self.tasks = OwnedTasks()
        self.links = [seat.right for seat in ring.seats]
        self.boards = [Boards(peer(seat.rank), self.tasks, lambda seat=seat: seat.right) for seat in ring.seats]
        for seat, boards in zip(ring.seats, self.boards, strict=True):
            seat.arrivals.on_board = boards.offered
        self.epoch = epoch_of(ring.world)
        self.move(self.epoch)

    def move(self, epoch: Epoch) -> None:
        for boards in self.boards:
            boards.move(epoch)

    def records(self) -> list[Record]:
        """What all say now."""
        shares = [Flag.SHARES if one.shares else Flag.NONE for one in self.boards]
        return [
            Record(peer(rank), 1.0, 7, flags=shares[rank], board=one.newest) for rank, one in enumerate(self.boards)
        ]

    def round(self, number: int, nbytes: int = SIZE, records: Sequence[Record] | None = None) -> None:
        """``number`` is complete on all members; what they said was said before."""
        said = self.records() if records is None else records
        for boards in self.boards:
            boards.decided(number, said, nbytes)

    def memory(self, round: int, nbytes: int = SIZE) -> list[torch.Tensor]:
        """What all would work on; empty if none would work on a board."""
        found = [boards.memory(round, nbytes) for boards in self.boards]
        assert len({one is None for one in found}) == 1, "some would work on the board, others beside it"
        return [one for one in found if one is not None]

    async def spread(self, number: int) -> None:
        await until(lambda: all(boards._number == number for boards in self.boards))
        assert len({boards.newest for boards in self.boards}) == 1, "all have the same memory"

    async def agree(self) -> None:
        """A board for rounds of ``SIZE`` after round 1, agreed on in round 2."""
        self.round(1)
        await self.spread(1)
        self.round(2)


async def test_a_board_is_made_handed_on_and_used_when_everybody_has_said_so() -> None:
    async with Ring(4) as ring:
        members = Members(ring)
        assert members.memory(1) == []
        before = members.records()
        members.round(1)
        await members.spread(1)
        members.round(2, records=before)
        assert members.memory(3) == [], "not all have said that they have it"
        with structlog.testing.capture_logs() as logs:
            members.round(3)
        assert [log["log_level"] for log in logs] == ["info"] * 4
        shared = members.memory(4)
        for rank, one in enumerate(shared):
            assert one.numel() == SIZE
            one[rank] = 100 + rank
        for one in shared:
            assert one[:4].tolist() == [100, 101, 102, 103]
        assert open_boards() == 4, "one mapping a member, no descriptor besides"


async def test_the_result_before_stays_as_it_was() -> None:
    async with Ring(2) as ring:
        members = Members(ring)
        await members.agree()
        third = members.memory(3)
        third[0].fill_(3)
        members.round(3)
        members.memory(4)[1].fill_(4)
        assert third[0].eq(3).all()
        assert third[1].eq(3).all()


async def test_small_and_too_large_rounds_are_not_made_on_it() -> None:
    async with Ring(2) as ring:
        members = Members(ring)
        await members.agree()
        assert len(members.memory(3, SMALLEST)) == 2
        assert members.memory(3, SMALLEST - 1) == []
        assert members.memory(3, SIZE + 1) == []


async def test_larger_rounds_get_a_larger_one_and_the_old_serves_until_all_have_it() -> None:
    async with Ring(3) as ring:
        members = Members(ring)
        await members.agree()
        said = members.records()
        members.round(3, 4 * SIZE)
        await members.spread(3)
        members.round(4, records=said)
        assert len(members.memory(5)) == 3, "all have the old one, and say so"
        mixed = [*said[:1], *members.records()[1:]]
        members.round(5, records=mixed)
        assert members.memory(6) == []
        members.round(6)
        assert len(members.memory(7, 4 * SIZE)) == 3
        assert open_boards() == 3, "the old one is gone"


async def test_another_epoch_begins_without() -> None:
    async with Ring(2) as ring:
        members = Members(ring)
        await members.agree()
        kept = members.memory(3)[0]
        kept.fill_(7)
        members.move(epoch_of(2, number=2))
        assert members.memory(3) == []
        assert [boards.newest for boards in members.boards] == [0, 0]
        assert kept.eq(7).all(), "a result that was made on it keeps its memory"
        del kept
        assert open_boards() == 0


async def test_one_that_is_being_made_when_the_epoch_ends_is_given_up() -> None:
    async with Ring(2) as ring:
        members = Members(ring)
        members.round(1, 64 << 20)
        await asyncio.sleep(0)
        assert open_boards() == 1
        members.move(epoch_of(2, number=2))
        await members.tasks.aclose()
        assert open_boards() == 0
        assert [boards.newest for boards in members.boards] == [0, 0]


@pytest.mark.parametrize("alone", [0, 1, 2])
async def test_if_one_member_does_not_share_there_is_none(alone: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Ring(3) as ring:
        members = Members(ring)
        right = ring.seats[alone].right
        assert right is not None
        monkeypatch.setattr(right, "_lender", None)
        for round in range(1, 4):
            members.round(round)
        await asyncio.sleep(0)
        assert open_boards() == 0
        assert members.memory(4) == []


async def test_where_there_is_no_memory_the_rounds_go_on_without(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def full(*_: object) -> None:
        asked.append(1)
        raise OSError(28, "No space left on device")

    async with Ring(2) as ring:
        members = Members(ring)
        monkeypatch.setattr(os, "posix_fallocate", full)
        with structlog.testing.capture_logs() as logs:
            members.round(1)
            await until(lambda: bool(logs))
            members.round(2)
            members.round(3)
            await asyncio.sleep(0)
        assert ("No space" in logs[0]["why"], len(logs), len(asked)) == (True, 1, 1), "said once, and not asked again"
        assert members.memory(4) == []
        await members.tasks.aclose()


def hand_in(link: Link | None, size: int = 2 * SIZE, **where: int) -> None:
    """Hand in memory as a left neighbour would."""
    assert link is not None
    fd = memory.create("lepton-board forged", size)
    epoch = epoch_of(3)
    assert link.hand_over(fd, encode(Kind.BOARD, **{"epoch": epoch.number, "tag": epoch.tag, "round": 5, **where}))
    os.close(fd)


@pytest.mark.parametrize(
    ("giver", "size", "where"),
    [
        (0, 2 * SIZE, {"epoch": 9}),
        (0, 2 * SIZE, {"tag": 9}),
        (0, 2 * SIZE, {"round": 0}),
        (0, 2 * SIZE + 1, {}),
        (2, 2 * SIZE, {}),
    ],
    ids=["another epoch", "another tag", "no number", "not two halves", "to the first member"],
)
async def test_what_is_no_board_of_this_epoch_is_dropped(giver: int, size: int, where: dict[str, int]) -> None:
    async with Ring(3) as ring:
        members = Members(ring)
        taker = (giver + 1) % 3
        inbound = ring.seats[taker].arrivals.link_from(peer(giver))
        assert inbound is not None
        before = inbound.statistics().frames_received
        hand_in(members.links[giver], size, **where)
        await until(lambda: inbound.statistics().frames_received > before)
        assert members.boards[taker].newest == 0
        assert open_boards() == 0
        assert inbound.closed is None


async def test_of_boards_that_come_without_end_few_are_held() -> None:
    async with Ring(3) as ring:
        members = Members(ring)
        inbound = ring.seats[1].arrivals.link_from(peer(0))
        assert inbound is not None
        for number in range(1, 20):
            before = inbound.statistics().frames_received
            hand_in(members.links[0], round=number)
            await until(lambda before=before: inbound.statistics().frames_received > before)
        assert len(members.boards[1]._boards) == 3
        await until(lambda: members.boards[2]._number == 3)
        assert open_boards() == 6, "the taker's, and what it handed on"
        assert inbound.closed is None


async def test_memory_that_is_not_there_is_not_mapped_and_complained_of_once() -> None:
    async with Ring(3) as ring:
        members = Members(ring)
        inbound, link = ring.seats[1].arrivals.link_from(peer(0)), members.links[0]
        assert inbound is not None
        assert link is not None
        epoch = epoch_of(3)
        with structlog.testing.capture_logs() as logs:
            for number in (1, 2, 3):
                before = inbound.statistics().frames_received
                fd = os.memfd_create("lepton-board huge", os.MFD_ALLOW_SEALING)
                os.ftruncate(fd, 1 << 40)
                fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
                link.hand_over(fd, encode(Kind.BOARD, epoch=epoch.number, tag=epoch.tag, round=number))
                os.close(fd)
                await until(lambda before=before: inbound.statistics().frames_received > before)
        assert len(logs) == 1
        assert "of which only 0 are there" in logs[0]["why"]
        assert members.boards[1].newest == 0
        assert open_boards() == 0


async def test_what_was_announced_but_not_handed_in_is_nothing() -> None:
    async with Ring(3) as ring:
        members = Members(ring)
        link, epoch = members.links[0], epoch_of(3)
        assert link is not None
        inbound = ring.seats[1].arrivals.link_from(peer(0))
        assert inbound is not None
        before = inbound.statistics().frames_received
        link.send(encode(Kind.BOARD, epoch=epoch.number, tag=epoch.tag, round=5))
        await until(lambda: inbound.statistics().frames_received > before)
        assert members.boards[1].newest == 0
