"""A board's memory: two halves that never meet, seen by all who have it, and mapped only if it cannot shrink."""

from __future__ import annotations

import fcntl
import mmap
import os
import sys

import pytest
from descriptors import open_named
from hypothesis import given
from hypothesis import strategies as st

from lepton_p2p.steps import finish
from lepton_p2p.transport.links import memory
from lepton_p2p.transport.links.board import Board, creating
from lepton_p2p.transport.links.frames import FrameError

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason=f"{sys.platform} has no memfd_create")
PAGE = mmap.PAGESIZE


def made(capacity: int) -> int:
    return finish(creating(capacity))


def open_boards() -> int:
    return open_named("lepton-board")


@given(st.integers(1, 5 * PAGE), st.integers(1, 1000), st.data())
def test_what_one_writes_all_see_and_the_other_half_does_not(capacity: int, round: int, data: st.DataObject) -> None:
    fd = made(capacity)
    mine, theirs = Board(os.dup(fd)), Board(fd)
    nbytes = data.draw(st.integers(1, capacity))
    assert mine.capacity >= capacity
    before = bytes(theirs.half(round + 1, mine.capacity))
    mine.half(round, nbytes)[:] = b"\xab" * nbytes
    assert theirs.half(round, nbytes) == b"\xab" * nbytes
    assert theirs.half(round + 2, nbytes) == b"\xab" * nbytes
    assert theirs.half(round + 1, mine.capacity) == before


def test_a_round_that_does_not_fit_is_refused() -> None:
    board = Board(made(PAGE))
    with pytest.raises(ValueError, match="on a board for"):
        board.half(1, PAGE + 1)


def test_a_half_outlives_its_board() -> None:
    board = Board(made(PAGE))
    half = board.half(1, 10)
    half[:] = b"0123456789"
    del board
    assert bytes(half) == b"0123456789"
    assert open_boards() == 1
    del half
    assert open_boards() == 0


def test_a_large_one_is_made_in_steps_and_nothing_is_left_if_that_is_given_up() -> None:
    steps = creating(20 << 20)
    next(steps)
    assert open_boards() == 1
    steps.close()
    assert open_boards() == 0


def test_where_there_is_no_memory_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        made(PAGE)
    assert open_boards() == 0


def test_a_system_without_such_memory_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(OSError, match="no memfd_create"):
        made(PAGE)


@pytest.mark.parametrize(
    ("nbytes", "seals"),
    [(2 * PAGE, 0), (2 * PAGE, fcntl.F_SEAL_GROW), (3 * PAGE, fcntl.F_SEAL_SHRINK), (0, fcntl.F_SEAL_SHRINK)],
    ids=["not sealed", "may shrink", "not two halves", "empty"],
)
def test_what_is_no_board_is_closed_and_not_mapped(nbytes: int, seals: int) -> None:
    fd = os.memfd_create("loose", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, nbytes)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    with pytest.raises(FrameError):
        Board(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_memory_that_may_only_be_read_is_refused() -> None:
    fd = memory.create("read only", 2 * PAGE)
    reader = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    os.close(fd)
    with pytest.raises(FrameError, match="cannot be mapped"):
        Board(reader)
