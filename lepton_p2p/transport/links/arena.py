"""Memory that two peers on one machine share, so that payloads need not pass through the kernel.

An arena belongs to one direction of one link: the sender writes payloads into its slots, in turn, and says so in a
frame on the socket; the receiver reads them where they lie and gives the slots back with another frame.  Everything
else (order, liveness, deadlines, checksums) is the link's as ever.

The memory is anonymous (``memfd_create(2)``): it has no name that could be left behind, and goes when both ends are
gone.  The receiver maps only what is sealed against shrinking, since reading beyond the end of a file is a fatal
signal.
"""

from __future__ import annotations

import fcntl
import mmap
import os

from lepton_p2p.transport.links.frames import MAX_PAYLOAD, FrameError

SLOTS = 4
"""Enough that the sender writes one while the receiver reads another; few, so that all stay in cache."""
BATCH = 2
"""Slots that are given back with one frame: half of the frames, and the other slots are free meanwhile."""
SLOT_BYTES = MAX_PAYLOAD
_BYTES = SLOTS * SLOT_BYTES


def create() -> int:
    """The descriptor of fresh memory for an arena; ``OSError`` where the system has none to give."""
    fd = os.memfd_create("lepton-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.posix_fallocate(fd, 0, _BYTES)  # now: a page that cannot be had later is a fatal signal
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _map(fd: int) -> memoryview:
    """Map and close ``fd``; the mapping lives as long as somebody holds a view of it."""
    try:
        return memoryview(mmap.mmap(fd, _BYTES))
    finally:
        os.close(fd)


class Lender:
    """The sender's end.  Takes over the descriptor ``fd``."""

    def __init__(self, fd: int) -> None:
        self._memory = _map(fd)
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
        try:
            seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
            size = os.fstat(fd).st_size
        except OSError as error:
            os.close(fd)
            raise FrameError(f"what was handed in is no shared memory: {error.strerror}") from None
        if not seals & fcntl.F_SEAL_SHRINK or size != _BYTES:
            os.close(fd)
            raise FrameError(f"memory of {size} bytes, sealed with {seals:#x}, is not an arena")
        self._memory = _map(fd)
        self._read = 0

    def slot(self, nbytes: int) -> memoryview:
        """The oldest payload that has been announced and not been given back."""
        start = self._read % SLOTS * SLOT_BYTES
        return self._memory[start : start + nbytes]

    def give_back(self) -> bool:
        """Its slot may be written again; True if the sender is to be told of ``BATCH`` such slots now."""
        self._read += 1
        return self._read % BATCH == 0
