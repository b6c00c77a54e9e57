"""Work that may be interrupted between its steps: done at once, with turns for others in between, or in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")
Steps = Generator[None, None, T]
"""Work in steps of a few milliseconds at most, and what it comes to."""


def finish(steps: Steps[T]) -> T:
    """Do all ``steps`` and return what they come to."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


async def in_turns(steps: Steps[T]) -> T:
    """Do ``steps`` on the loop, with a turn for everybody else after each; if it is cancelled, the rest is not done."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        await asyncio.sleep(0)


async def in_thread(steps: Steps[T]) -> T:
    """Do all ``steps`` in a thread, cancelled or not."""
    thread = asyncio.ensure_future(asyncio.to_thread(finish, steps))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.wait((thread,))
        raise
