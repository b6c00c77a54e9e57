"""Memory that all members of a ring see, if all of them are on one machine: there the sum is made in place.

Each member in turn adds its own numbers to a chunk where it lies and tells the next that it may go on; what is final is
read by everybody from the one place.  Nothing but announcements goes over the links.

A board has two halves, for rounds of even and odd numbers: while one round is under way, the result of the round
before lies untouched in the other half, for a member that has missed it.  What is overwritten is the result of two
rounds ago.  Everyone has that: whoever begins a round has the result of the one before, in which everyone took part
with the result of the one before that.  (A member that is behind may still keep it, and then keeps rubbish: its digest
tells whoever asks.)

A board serves one epoch only: a member that was left behind, stopped in the middle of a write, can do no harm in the
memory of those who went on.
"""

from __future__ import annotations

import mmap
import os

from lepton_p2p.steps import Steps
from lepton_p2p.transport.links import memory
from lepton_p2p.transport.links.frames import FrameError


def creating(capacity: int) -> Steps[int]:
    """Step by step, the descriptor of a fresh board for rounds of up to ``capacity`` bytes (see ``memory.creating``).

    ``OSError`` if it cannot be had.
    """
    return memory.creating("lepton-board", 2 * _whole_pages(capacity))


class Board:
    """One member's view of the memory behind ``fd``, which it takes over; :class:`FrameError` if that is no board."""

    def __init__(self, fd: int) -> None:
        self.identity = os.fstat(fd).st_ino
        """The same for all who have this very memory, and for nobody who has another."""
        self._memory = memory.adopt(fd)
        if self._memory.nbytes % (2 * mmap.PAGESIZE):
            raise FrameError(f"memory of {self._memory.nbytes} bytes is no board")
        self.capacity = self._memory.nbytes // 2
        """Bytes that a round may have."""

    def half(self, round: int, nbytes: int) -> memoryview:
        """Where ``round``, of ``nbytes``, is made."""
        if nbytes > self.capacity:
            raise ValueError(f"{nbytes} bytes on a board for {self.capacity}")
        start = round % 2 * self.capacity
        return self._memory[start : start + nbytes]


def _whole_pages(nbytes: int) -> int:
    return -(-max(nbytes, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
