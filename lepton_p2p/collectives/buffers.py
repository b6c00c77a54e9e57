"""Flat byte buffers that are used again: fresh pages are slow (each is faulted in and zeroed by the kernel)."""

from __future__ import annotations

import threading
from collections import OrderedDict

import torch

_PER_SIZE = 4
"""Input, result and the kept result of the round before, and one in reserve."""
_SIZES = 8


class BufferPool:
    """Idle flat uint8 CPU tensors by size; at most four of each of the eight sizes used last.  Thread-safe."""

    def __init__(self) -> None:
        self._idle: OrderedDict[tuple[int, bool], list[torch.Tensor]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, nbytes: int, *, pinned: bool = False) -> torch.Tensor:
        """A buffer of exactly ``nbytes`` with undefined content; ``pinned``: page-locked, for copies from a GPU."""
        with self._lock:
            idle = self._idle.get((nbytes, pinned))
            if idle:
                return idle.pop()
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=pinned)

    def give(self, buffer: torch.Tensor) -> None:
        """Hand back a buffer that nobody reads or writes any more, links included (``Link.drained``)."""
        pinned = buffer.is_pinned() if torch.cuda.is_available() else False
        key = (buffer.numel(), pinned)
        with self._lock:
            idle = self._idle.setdefault(key, [])
            self._idle.move_to_end(key)
            if len(idle) < _PER_SIZE and all(other.data_ptr() != buffer.data_ptr() for other in idle):
                idle.append(buffer)
            while len(self._idle) > _SIZES:
                self._idle.popitem(last=False)

    def forget(self, nbytes: int) -> None:
        """Let the memory of idle buffers of this size go."""
        with self._lock:
            self._idle.pop((nbytes, False), None)
