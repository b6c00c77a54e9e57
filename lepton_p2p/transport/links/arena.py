"""Memory that two peers on one machine share, so that payloads need not pass through the kernel.

An arena belongs to one direction of one link: the sender writes payloads into its slots, in turn, and says so in a
frame on the socket; the receiver reads them where they lie and gives the slots back with another frame.  Everything
else (order, liveness, deadlines, checksums) is the link's as ever.

See ``memory.py`` for where it comes from.
"""

from __future__ import annotations

from lepton_p2p.transport.links import memory
from lepton_p2p.transport.links.frames import MAX_PAYLOAD, FrameError

SLOTS = 4
"""Enough that the sender writes one while the receiver reads another; few, so that all stay in cache."""
BATCH = 2
"""Slots that are given back with one frame: half of the frames, and the other slots are free meanwhile."""
SLOT_BYTES = MAX_PAYLOAD
_BYTES = SLOTS * SLOT_BYTES


def create() -> int:
    """The descriptor of fresh memory for an arena; ``OSError`` where the system has none to give."""
    return memory.create("lepton-arena", _BYTES)


class Lender:
    """The sender's end.  Takes over the descriptor ``fd``."""

    def __init__(self, fd: int) -> None:
        self._memory = memory.adopt(fd, _BYTES)
        self._lent = 0
        self._returned = 0

    @property
    def free(self) -> bool:
        """Whether :meth:`slot` may be called."""
        return self._lent - self._returned < SLOTS

    def slot(self, nbytes: int) -> memoryview:
        """The memory in which the next payload goes out, to be filled before :meth:`lend`."""
        start = self._lent % SLOTS * SLOT_BYTES
        return self._memory[start : start + nbytes]

    def lend(self) -> None:
        """The receiver may read the slot: not to be written until it comes back."""
        self._lent += 1

    def take_back(self) -> None:
        """The receiver has done with the oldest ``BATCH`` slots; :class:`FrameError` if it has not so many."""
        if self._lent - self._returned < BATCH:
            raise FrameError("slots given back that were not lent")
        self._returned += BATCH


class Borrower:
    """The receiver's end.  Takes over the descriptor ``fd``, which a remote handed in.

    :class:`FrameError` if that is not memory of this protocol.
    """

    def __init__(self, fd: int) -> None:
        self._memory = memory.adopt(fd, _BYTES)
        self._read = 0

    def slot(self, nbytes: int) -> memoryview:
        """The oldest payload that has been announced and not been given back."""
        start = self._read % SLOTS * SLOT_BYTES
        return self._memory[start : start + nbytes]

    def give_back(self) -> bool:
        """Its slot may be written again; True if the sender is to be told of ``BATCH`` such slots now."""
        self._read += 1
        return self._read % BATCH == 0
