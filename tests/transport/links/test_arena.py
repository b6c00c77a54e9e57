"""Memory of two peers: written by one, read by the other, never at once; and nothing mapped on the word of a remote."""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile

import pytest
from descriptors import open_named
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_p2p.transport.links.arena import BATCH, SLOT_BYTES, SLOTS, Borrower, Lender, create
from lepton_p2p.transport.links.frames import FrameError

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason=f"{sys.platform} has no memfd_create")


@pytest.fixture
def ends() -> tuple[Lender, Borrower]:
    fd = create()
    return Lender(os.dup(fd)), Borrower(fd)


def test_what_is_lent_is_read_where_it_lies(ends: tuple[Lender, Borrower]) -> None:
    lender, borrower = ends
    lender.slot(5)[:] = b"first"
    lender.lend()
    lender.slot(6)[:] = b"second"
    lender.lend()
    assert bytes(borrower.slot(5)) == b"first"
    borrower.give_back()
    assert bytes(borrower.slot(6)) == b"second"


def test_slots_are_lent_until_none_is_free_and_come_back_in_batches(ends: tuple[Lender, Borrower]) -> None:
    lender, borrower = ends
    for _ in range(SLOTS):
        assert lender.free
        lender.slot(SLOT_BYTES)
        lender.lend()
    assert not lender.free
    told = [borrower.give_back() for _ in range(SLOTS)]
    assert sum(told) == SLOTS // BATCH
    assert told[:BATCH] == [False] * (BATCH - 1) + [True]
    lender.take_back()
    assert lender.free


def test_a_slot_that_was_not_lent_cannot_be_given_back(ends: tuple[Lender, Borrower]) -> None:
    lender, _ = ends
    with pytest.raises(FrameError, match="not lent"):
        lender.take_back()


@settings(deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=50), max_size=30), st.data())
def test_nothing_is_overwritten_before_it_was_read(payloads: list[bytes], data: st.DataObject) -> None:
    fd = create()
    lender, borrower = Lender(os.dup(fd)), Borrower(fd)
    waiting = list(payloads)
    announced: list[int] = []
    read: list[bytes] = []
    while waiting or announced:
        if waiting and lender.free and (not announced or data.draw(st.booleans())):
            payload = waiting.pop(0)
            lender.slot(len(payload))[:] = payload
            lender.lend()
            announced.append(len(payload))
        else:
            read.append(bytes(borrower.slot(announced.pop(0))))
            if borrower.give_back():
                lender.take_back()
    assert read == payloads


def test_what_could_shrink_under_the_reader_is_not_mapped() -> None:
    fd = os.memfd_create("loose", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, SLOTS * SLOT_BYTES)
    with pytest.raises(FrameError, match="not what was announced"):
        Borrower(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)  # taken over, and closed


def test_memory_of_another_size_is_not_mapped() -> None:
    fd = os.memfd_create("small", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 4096)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    with pytest.raises(FrameError, match="4096 bytes"):
        Borrower(fd)


def test_a_file_is_not_mapped() -> None:
    with tempfile.TemporaryFile() as file, pytest.raises(FrameError):
        Borrower(os.dup(file.fileno()))


def test_the_memory_cannot_be_made_smaller() -> None:
    fd = create()
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
    os.close(fd)


def test_the_memory_goes_with_its_ends() -> None:
    fd = create()
    lender, borrower = Lender(os.dup(fd)), Borrower(fd)
    assert open_named("lepton-arena")
    del lender, borrower
    assert not open_named("lepton-arena")
