"""How a running peer comes along: a live panel on a terminal, plain lines elsewhere, and a file for programs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol, TextIO

import structlog
from rich.console import Console
from rich.live import Live

from lepton_p2p.cli.views import status_line, status_panel, status_to_dict
from lepton_p2p.errors import ConfigError
from lepton_p2p.transport.values import StatusReport

log = structlog.get_logger(__name__)

POLL_SECONDS = 0.5
"""How often a peer's own status is looked at; it is in memory, so this costs nothing."""
LINE_SECONDS = 5.0
"""Without a terminal: a line at most this often while nothing but the step changes."""


class View(Protocol):
    """Something that shows a status; a context manager, since a terminal must be put back in order."""

    def __enter__(self) -> View: ...

    def __exit__(self, *exc_info: object) -> None: ...

    def show(self, status: StatusReport) -> None: ...


class Lines:
    """A line when the phase, the epoch or the members change, and now and then while training."""

    def __init__(self, out: TextIO | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out or sys.stdout
        self._clock = clock
        self._seen: tuple[object, ...] | None = None
        self._step = -1
        self._due = 0.0

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def show(self, status: StatusReport) -> None:
        key = (status.phase, status.epoch, tuple(member.peer.id for member in status.members if member.in_epoch))
        if key == self._seen and (status.step == self._step or self._clock() < self._due):
            return
        self._seen, self._step, self._due = key, status.step, self._clock() + LINE_SECONDS
        print(status_line(status), file=self._out, flush=True)


class LivePanel:
    """A panel that is redrawn in place."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, refresh_per_second=4, transient=False)

    def __enter__(self) -> LivePanel:
        self._live.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._live.stop()

    def show(self, status: StatusReport) -> None:
        self._live.update(status_panel(status))


def view_for(console: Console) -> View:
    """The live panel where there is a terminal, plain lines elsewhere."""
    return LivePanel(console) if console.is_terminal else Lines()


class MetricsFile:
    """Appends one JSON object per changed status to a file; :class:`ConfigError` if it cannot be opened.

    A disk that is full later is no reason to stop training: the file then ends where it ends, with one warning.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last: tuple[int, int, str] | None = None
        self._broken = False

    def __enter__(self) -> MetricsFile:
        try:
            self._file = self._path.open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            raise ConfigError(f"metrics file {self._path} cannot be written: {error.strerror}") from None
        return self

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.suppress(OSError):  # bytes that could not be written, of which there was a warning
            self._file.close()

    def show(self, status: StatusReport) -> None:
        """One line if round, step or phase is not that of the last line."""
        key = (status.round, status.step, status.phase.value)
        if key == self._last or self._broken:
            return
        self._last = key
        try:
            self._file.write(json.dumps({"time": time.time(), **status_to_dict(status)}) + "\n")
        except OSError as error:
            self._broken = True
            log.warning("the metrics file ends here", file=str(self._path), why=error.strerror)


async def follow(
    status: Callable[[], Awaitable[StatusReport]],
    show: Callable[[StatusReport], None],
    *,
    interval: float = POLL_SECONDS,
) -> None:
    """Hand ``show`` the status every ``interval`` seconds until cancelled."""
    while True:
        show(await status())
        await asyncio.sleep(interval)
