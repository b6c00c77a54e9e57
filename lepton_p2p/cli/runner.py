"""Running coroutines from the command line: uvloop, and signals that end it without a traceback."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

import typer
import uvloop

from lepton_p2p.cli.exit_codes import INTERRUPTED, TERMINATED

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` on a fresh uvloop.

    Ctrl+C and SIGTERM cancel it, wait for its clean-up, and end the program with 130 and 143, unless ``main`` takes the
    signals over (see ``stopping``).
    """
    _allow_many_files()
    # The first handler (see ``cli.main``) knows no clean-up; asyncio takes over from Python's own one only.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_cancelled_by_sigterm(main))
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except asyncio.CancelledError:
        raise typer.Exit(TERMINATED) from None


def _allow_many_files() -> None:
    """As many open files as the system lets this user have: the usual 1024 are used up by a thousand strangers."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _cancelled_by_sigterm(main: Coroutine[Any, Any, T]) -> T:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await main
