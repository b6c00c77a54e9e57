"""Connections that have not shown a ticket: how many may wait at a time, and what is logged of those without one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import structlog

T = TypeVar("T")

_log = structlog.get_logger(__name__)
_INTERVAL = 10.0


class StrangerLog:
    """Turns rejected connections into at most one WARNING per ten seconds, with the number that it stands for."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.rejected = 0
        self._clock = clock
        self._unsaid = 0
        self._next = float("-inf")

    def reject(self, address: str, reason: str) -> None:
        """Count a connection from ``address`` that was closed because of ``reason``."""
        self.rejected += 1
        self._unsaid += 1
        now = self._clock()
        if now >= self._next:
            _log.warning(
                "closed a connection to the data port that is no peer's; check who can reach this port",
                address=address,
                reason=reason,
                connections=self._unsaid,
            )
            self._unsaid = 0
            self._next = now + _INTERVAL


class WaitingRoom(Generic[T]):
    """Who is connected and has not said who it is: at most ``total``, and at most ``each`` from one address.

    Whoever comes is let in.  If there are too many then, the one goes that has been waiting longest at that address, or
    at the address with the most: peers say who they are at once, so that it is none of them that waits long, and one
    crowded address does not cost the others their places.
    """

    def __init__(self, *, total: int, each: int) -> None:
        self._total, self._each = total, each
        self._waiting: dict[T, str] = {}
        self._from: Counter[str] = Counter()

    def enter(self, guest: T, address: str) -> T | None:
        """Let ``guest`` in; who has to go instead (the caller must see to it that it :meth:`leave` s)."""
        self._waiting[guest] = address
        self._from[address] += 1
        if self._from[address] > self._each:
            crowd = address
        elif len(self._waiting) > self._total:
            crowd = self._from.most_common(1)[0][0]
        else:
            return None
        return next(one for one, where in self._waiting.items() if where == crowd)

    def leave(self, guest: T) -> None:
        """``guest`` is gone, or not a stranger any more.  Idempotent."""
        address = self._waiting.pop(guest, None)
        if address is not None:
            self._from[address] -= 1
            if not self._from[address]:
                del self._from[address]

    def __iter__(self) -> Iterator[T]:
        return iter(tuple(self._waiting))

    def __len__(self) -> int:
        return len(self._waiting)
