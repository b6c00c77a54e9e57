"""Anonymous memory that two or more processes map: made by one, handed to the others as a descriptor.

It has no name that could be left behind (``memfd_create(2)``) and goes when all who mapped it are gone.  A receiver
maps only what is sealed against shrinking and has all of its pages: reading beyond the end of a file is a fatal signal,
and so is a page that cannot be had.
"""

from __future__ import annotations

import fcntl
import mmap
import os

from lepton_p2p.steps import Steps, finish
from lepton_p2p.transport.links.frames import FrameError


class Unmappable(FrameError):
    """The memory is as it should be, but this process has no room for it."""


_STEP = 8 << 20
_BLOCK = 512
"""What ``st_blocks`` counts, bytes (stat(2))."""


def create(name: str, nbytes: int) -> int:
    """The descriptor of fresh memory of ``nbytes``; ``OSError`` where the system has none to give."""
    return finish(creating(name, nbytes))


def creating(name: str, nbytes: int) -> Steps[int]:
    """:func:`create` step by step: each takes the system a few milliseconds, in which it finds and clears memory."""
    try:
        fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except AttributeError:
        raise OSError("this system has no memfd_create") from None
    try:
        for start in range(0, nbytes, _STEP):
            # Now: a page that cannot be had later is a fatal signal.
            os.posix_fallocate(fd, start, min(_STEP, nbytes - start))
            yield
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    except BaseException:
        os.close(fd)
        raise
    return fd


def adopt(fd: int, nbytes: int | None = None) -> memoryview:
    """Map and close ``fd``; the mapping lives as long as somebody holds a view of it.

    :class:`FrameError` if it is not sealed memory (of ``nbytes``, if that is given), :class:`Unmappable` if it is.
    """
    try:
        try:
            seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
            about = os.fstat(fd)
        except OSError as error:
            raise FrameError(f"what was handed in is no shared memory: {error.strerror}") from None
        size = about.st_size
        if not seals & fcntl.F_SEAL_SHRINK or not size or (nbytes is not None and size != nbytes):
            raise FrameError(f"memory of {size} bytes, sealed with {seals:#x}, is not what was announced")
        if about.st_blocks * _BLOCK < size:
            raise FrameError(f"memory of {size} bytes of which only {about.st_blocks * _BLOCK} are there")
        try:
            return memoryview(mmap.mmap(fd, size))
        except (OSError, OverflowError) as error:
            raise Unmappable(f"memory of {size} bytes cannot be mapped: {error}") from None
    finally:
        os.close(fd)
