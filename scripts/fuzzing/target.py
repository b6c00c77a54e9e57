"""What a fuzz target is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """``run(data)`` returns for any data; whatever it raises is a bug.  seeds: examples to start from."""

    name: str
    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...] = ()


class Reader:
    """Takes decisions from fuzz data: bytes from the front, nothing but zeros when they are used up."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    def __bool__(self) -> bool:
        return bool(self._data)

    def byte(self) -> int:
        return int.from_bytes(self.take(1))

    def take(self, count: int) -> bytes:
        """``count`` bytes, or fewer at the end."""
        taken, self._data = self._data[:count], self._data[count:]
        return bytes(taken)

    def rest(self) -> bytes:
        return self.take(len(self._data))


def refusing(parse: Callable[[bytes], object], *errors: type[Exception]) -> Callable[[bytes], None]:
    """A target out of a parser that may raise ``errors`` and nothing else."""

    def run(data: bytes) -> None:
        with contextlib.suppress(*errors):
            parse(data)

    return run


def slices(data: bytes, sizes: Iterator[int]) -> Iterator[bytes]:
    """``data`` cut into pieces of these sizes."""
    start = 0
    while start < len(data):
        size = max(1, next(sizes))
        yield data[start : start + size]
        start += size
