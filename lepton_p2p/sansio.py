"""What a pure state machine may ask of the world.

Every protocol machine in this package (membership, rounds, push-sum) is fed ``(now, input)`` and returns a
list of these effects; it never performs one.  A driver performs them on asyncio and gRPC, a simulator on a
virtual clock.  ``now`` is seconds on a monotonic clock of the driver's choosing.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

Message = TypeVar("Message")
Event = TypeVar("Event")


@dataclass(frozen=True, slots=True)
class Send(Generic[Message]):
    """Deliver ``message`` to the peer that listens at ``to`` (``host:port``); best effort, at most once."""

    to: str
    message: Message


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Call ``timer(now, key)`` at time ``at``; a second ``SetTimer`` with the same key replaces the first."""

    key: Hashable
    at: float


@dataclass(frozen=True, slots=True)
class CancelTimer:
    """Forget the timer ``key``; unknown keys are ignored."""

    key: Hashable


@dataclass(frozen=True, slots=True)
class Emit(Generic[Event]):
    """Tell the room above that ``event`` happened."""

    event: Event
