"""In which order a member of a ring sends: what passes by first, its own chunks a few at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Outbox(Generic[T]):
    """What waits to be sent to the right neighbour.

    ``own`` are the chunks that start here.  At most ``window`` of them are under way at a time (None: no bound), and
    chunks of others go before them.  So a chunk is sent on while it is in the processor's cache, and comes back while
    the input that it was made from still is; with everything under way at once, all of that would go through main
    memory (measured: 15 % of the time at 100 MiB).  ``window * chunk`` must cover what a link holds in one round trip,
    so that no link ever waits: 2 does wherever the round trip is shorter than the transfer of one chunk.
    """

    def __init__(self, own: Iterable[T], window: int | None = None) -> None:
        if window is not None and window < 1:
            raise ValueError(f"a window of {window} lets nothing out")
        self._own = deque(own)
        self._passing: deque[T] = deque()
        self._window = window
        self._under_way = 0

    def forward(self, item: T) -> None:
        """``item`` came from the left and goes on."""
        self._passing.append(item)

    def returned(self) -> None:
        """One of the own chunks is not under way any more."""
        self._under_way -= 1

    def unbind(self) -> None:
        """No window from now on."""
        self._window = None

    @property
    def passing(self) -> bool:
        """Whether something that came from the left waits."""
        return bool(self._passing)

    def next(self) -> T | None:
        """What to send now; None: nothing, or not yet."""
        if self._passing:
            return self._passing.popleft()
        if self._own and (self._window is None or self._under_way < self._window):
            self._under_way += 1
            return self._own.popleft()
        return None

    def rest(self) -> list[T]:
        """All that is left, without regard to the window; nothing waits afterwards."""
        left = [*self._passing, *self._own]
        self.clear()
        return left

    def clear(self) -> None:
        """Forget what waits."""
        self._passing.clear()
        self._own.clear()
