"""The random source that the machine is handed; ``random.Random`` is one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")


class Randomness(Protocol):
    """The part of ``random.Random`` that SWIM uses."""

    def random(self) -> float: ...

    def randrange(self, start: int, /) -> int: ...

    def sample(self, population: Sequence[T], k: int) -> list[T]: ...
