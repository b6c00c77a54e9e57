"""The boards of one peer: makes them, hands them on, and knows which one a round is made on."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence

import structlog
import torch

from lepton_p2p.identity import PeerId
from lepton_p2p.rounds import board_choice
from lepton_p2p.rounds.epoch import Epoch
from lepton_p2p.rounds.records import Record
from lepton_p2p.steps import in_turns
from lepton_p2p.tasks import OwnedTasks
from lepton_p2p.transport.links import board
from lepton_p2p.transport.links.board import Board
from lepton_p2p.transport.links.frames import FrameError, Header, Kind, encode
from lepton_p2p.transport.links.link import Link

_log = structlog.get_logger(__name__)
_AT_ONCE = 3
"""Boards that are held at most: the one in use, the one that the last record named, and one that came since."""


class Boards:
    """What is common to a ring whose members are all on one machine; see ``rounds/board_choice.py`` for the agreement.

    ``right()`` is the open link to the right neighbour.  A board belongs to one epoch and is forgotten with it; a
    result that was made on it keeps its memory.
    """

    def __init__(self, me: PeerId, tasks: OwnedTasks, right: Callable[[], Link | None]) -> None:
        self._me, self._tasks, self._right = me, tasks, right
        self._epoch: Epoch | None = None
        self._boards: dict[int, Board] = {}
        self._newest = self._agreed = 0
        self._number = 0
        self._complained = False
        self._making: asyncio.Task[None] | None = None
        self._asked = 0
        """The capacity that was last made or refused by the system: the same is not asked for again."""

    @property
    def newest(self) -> int:
        """What the own record says: the identity of the last board that came, 0 if none did."""
        return self._newest

    @property
    def shares(self) -> bool:
        """What the own record says as well: whether this peer could hand a board on."""
        right = self._right()
        return right is not None and right.shares

    def move(self, epoch: Epoch | None) -> None:
        """Another epoch: nothing is common any more."""
        self._epoch = epoch
        self._boards, self._newest, self._agreed, self._asked = {}, 0, 0, 0
        self._number, self._complained = 0, False
        if self._making is not None:
            self._making.cancel()
            self._making = None

    def memory(self, round: int, nbytes: int) -> torch.Tensor | None:
        """Where ``round`` is made, ``nbytes`` of flat uint8 that all members see; None: not in common memory."""
        agreed = self._boards.get(self._agreed)
        if agreed is None or not board_choice.SMALLEST <= nbytes <= agreed.capacity:
            return None
        return torch.frombuffer(agreed.half(round, nbytes), dtype=torch.uint8)

    def decided(self, round: int, records: Sequence[Record], nbytes: int) -> None:
        """``round``, of ``nbytes``, is complete in this epoch with these ``records``, in ring order."""
        before, self._agreed = self._agreed, board_choice.agreed(records)
        self._boards = {key: one for key, one in self._boards.items() if key in (self._agreed, self._newest)}
        if self._agreed and not before:
            _log.info("all members are on this machine: sums are made in common memory from now on")
        if records[0].peer == self._me and self._making is None:
            capacity = board_choice.wanted(records, nbytes, self._asked)
            if capacity:
                self._asked = capacity
                self._making = self._tasks.spawn(self._make(round, capacity), f"make a board of {capacity} bytes")

    def offered(self, link: Link, header: Header) -> None:
        """The left neighbour says that it handed in a board on ``link``."""
        fd = link.collect()
        epoch = self._epoch
        if fd is None:
            return
        if (
            epoch is None
            or (header.epoch, header.tag) != (epoch.number, epoch.tag)
            or header.round <= self._number
            or len(self._boards) >= _AT_ONCE
            or link.remote != epoch.left_of(self._me)
            or epoch.ids[0] == self._me
        ):
            os.close(fd)
            return
        self._take(header.round, fd)

    async def _make(self, number: int, capacity: int) -> None:
        try:
            with contextlib.closing(board.creating(capacity)) as steps:
                fd = await in_turns(steps)
        except OSError as error:
            self._complain(number, error)
        else:
            self._take(number, fd)
        self._making = None

    def _take(self, number: int, fd: int) -> None:
        """Map the board behind ``fd``, which is taken over, and hand it on unless the ring ends here."""
        epoch, right = self._epoch, self._right()
        assert epoch is not None
        try:
            one = Board(os.dup(fd))
            self._boards[one.identity] = one
            self._newest, self._number = one.identity, number
            if right is not None and epoch.right_of(self._me) != epoch.ids[0]:
                right.hand_over(fd, encode(Kind.BOARD, epoch=epoch.number, tag=epoch.tag, round=number))
        except (OSError, FrameError) as error:
            # No harm done: without this peer's word that it has the board nobody uses it.
            self._complain(number, error)
        finally:
            os.close(fd)

    def _complain(self, number: int, error: Exception) -> None:
        """Once an epoch."""
        if not self._complained:
            self._complained = True
            _log.info("no common memory to be had; every peer keeps its own", board=number, why=str(error))
