"""Watching the left neighbour: how long it may be silent, and looking twice before judging."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from lepton_p2p.identity import PeerId, short
from lepton_p2p.rounds.patience import Patience
from lepton_p2p.transport.links.arrivals import Arrivals


def _nobody(reason: str) -> None:
    """Who hears of silence when nobody waits any more."""


class SilenceWatch:
    """Calls ``on_silent(reason)`` once when ``left`` has been silent, or slow with a chunk, for longer than allowed.

    One timer, set to the earliest moment at which the neighbour could be too late: chunks cost it nothing.
    """

    def __init__(self, left: PeerId, arrivals: Arrivals, patience: Patience, on_silent: Callable[[str], None]) -> None:
        self._left, self._arrivals, self._patience = left, arrivals, patience
        self._on_silent = on_silent
        self._loop = asyncio.get_running_loop()
        self._since = 0.0
        self._chunk_since = 0.0
        self._chunk_bytes: int | None = None
        self._doubtful = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """The neighbour's time begins."""
        self._since = self._loop.time()
        self._watch_until(self._since + self._patience.silence())

    def stop(self) -> None:
        """No call, and no reference to who waits for one, after this.  Idempotent."""
        self._on_silent = _nobody
        if self._timer is not None:
            self._timer.cancel()

    def chunk_began(self, nbytes: int, now: float, *, whole: bool = False) -> None:
        """The header of a chunk of ``nbytes`` is here, the rest as well if ``whole``: no measure of pace."""
        self._chunk_bytes, self._chunk_since = None if whole else nbytes, now
        link = self._arrivals.link_from(self._left)
        if link is not None:
            # What this process itself missed, standing still or between rounds, says nothing about the neighbour.
            before = max(self._since, link.last_received - link.protocol.gap)
            self._patience.arrived(link.last_received - before)

    def chunk_ended(self) -> None:
        """All of it is here."""
        if self._chunk_bytes is not None:
            self._patience.transferred(self._chunk_bytes, self._loop.time() - self._chunk_since)
            self._chunk_bytes = None

    def _watch_until(self, when: float) -> None:
        self._timer = self._loop.call_at(when, self._look, when)

    def _look(self, scheduled: float) -> None:
        now = self._loop.time()
        heartbeat = self._patience.config.heartbeat
        if now - scheduled > heartbeat:
            # This process itself stood still (stopped, swapped, starved): what it did not read proves nothing.
            self._since = self._chunk_since = now
        deadline, reason = self._deadline()
        if now < deadline:
            self._doubtful = False
            self._watch_until(deadline)
        elif not self._doubtful:
            # Timers may run before the sockets are read: give what is in the kernel's buffer a chance.
            self._doubtful = True
            self._watch_until(now + heartbeat / 2)
        else:
            self._on_silent(reason)

    def _deadline(self) -> tuple[float, str]:
        name = short(self._left)
        link = self._arrivals.link_from(self._left)
        if link is None:
            connect = self._patience.config.connect
            return self._since + connect, f"{name} did not open its link within {connect:g} s"
        silence = self._patience.silence()
        deadline = max(self._since, link.last_received) + silence
        if self._chunk_bytes is not None:
            allowed = self._patience.chunk(self._chunk_bytes)
            if self._chunk_since + allowed < deadline:
                return self._chunk_since + allowed, f"a chunk from {name} took more than {allowed:.2f} s"
        return deadline, f"{name} has been silent for {silence:.2f} s"
