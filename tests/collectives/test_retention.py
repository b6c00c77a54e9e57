"""The result that is kept for others, and what becomes of the memory of the one before."""

from __future__ import annotations

import pytest
import torch

from lepton_p2p.collectives.buffers import BufferPool
from lepton_p2p.collectives.fetch import FetchServer
from lepton_p2p.collectives.pending import Kept
from lepton_p2p.collectives.recovery import RESULT
from lepton_p2p.collectives.retention import Retention
from lepton_p2p.rounds.layout import Group, Layout
from lepton_p2p.tasks import OwnedTasks

SIZE = 256


class Setting:
    """A retention, its pool, and what it serves."""

    def __init__(self) -> None:
        self.pool, self.server = BufferPool(), FetchServer()
        self.retention = Retention(self.pool, self.server, OwnedTasks())

    def keep(self, round: int, *, common: bool = False) -> torch.Tensor:
        buffer = torch.full((SIZE,), round, dtype=torch.uint8) if common else self.pool.take(SIZE)
        layout = Layout.even([Group("uint8", 1, 0, SIZE)], 2)
        self.retention.keep(Kept(round, 1, 7, (), (), 1, 1, layout, buffer, common), ())
        return buffer

    def idle(self) -> set[int]:
        """Addresses of the buffers that the pool would hand out again."""
        return {buffer.data_ptr() for row in self.pool._idle.values() for buffer in row}


@pytest.fixture
def setting() -> Setting:
    return Setting()


def test_only_the_last_result_is_kept_and_served(setting: Setting) -> None:
    setting.keep(1)
    setting.keep(2)
    kept = setting.retention.of(2)
    assert kept is not None
    assert kept.round == 2
    assert setting.retention.of(1) is None
    assert set(setting.server._readers) == {(RESULT, 2)}


def test_the_memory_of_the_result_before_is_used_again(setting: Setting) -> None:
    first = setting.keep(1)
    setting.keep(2)
    assert setting.idle() == {first.data_ptr()}


def test_memory_that_others_see_is_never_used_again(setting: Setting) -> None:
    board = setting.keep(1, common=True)
    setting.keep(2, common=True)
    own = setting.keep(3)
    assert setting.idle() == set()
    assert own.data_ptr() != board.data_ptr()


def test_once_there_is_a_board_the_own_memory_is_let_go(setting: Setting) -> None:
    setting.keep(1)
    setting.keep(2)
    assert len(setting.idle()) == 1
    setting.keep(3, common=True)
    assert setting.idle() == set()


def test_once_closed_nothing_is_held_or_served(setting: Setting) -> None:
    setting.keep(1)
    setting.retention.close()
    setting.retention.close()
    assert setting.retention.of(1) is None
    assert not setting.server._readers
