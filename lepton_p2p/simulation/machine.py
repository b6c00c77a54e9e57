"""A pure machine on a virtual clock: what ``driver.MachineDriver`` is on asyncio."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lepton_p2p.sansio import CancelTimer, Emit, Send, SetTimer
from lepton_p2p.simulation.scheduler import Entry, Scheduler


@dataclass(frozen=True, slots=True)
class Clock:
    """A process's own idea of time: ``skew`` seconds off, and running ``rate`` times as fast as it should."""

    skew: float = 0.0
    rate: float = 1.0

    def read(self, now: float) -> float:
        """What it shows at the world's time ``now``."""
        return self.skew + self.rate * now

    def until(self, shown: float, now: float) -> float:
        """The world's seconds until it shows ``shown``."""
        return (shown - self.read(now)) / self.rate


class Machine(Protocol):
    """What every machine that is run here has; its other inputs are given to ``feed``."""

    def timer(self, now: float, key: Hashable) -> Sequence[Any]: ...


Step = Callable[[float], Sequence[Any]]


class MachineRunner:
    """Feeds ``machine`` and performs what it asks for, strictly in order; what that feeds in turn comes after.

    send(to, message) starts a delivery.  ``run`` runs a call in the owner's process: at once, or when it is no longer
    stopped, or never.
    """

    def __init__(
        self,
        machine: Machine,
        scheduler: Scheduler,
        clock: Clock,
        *,
        run: Callable[[Callable[[], None]], None],
        send: Callable[[str, Any], None],
        on_event: Callable[[Any], None],
        handlers: Mapping[type, Callable[[Any], None]] | None = None,
    ) -> None:
        self._machine = machine
        self._scheduler, self._clock, self._run = scheduler, clock, run
        self._timers: dict[Hashable, Entry] = {}
        self._inputs: deque[Step] = deque()
        self._feeding = False
        self._earliest = clock.read(scheduler.now)
        self._handlers: dict[type, Callable[[Any], None]] = {
            Send: lambda effect: send(effect.to, effect.message),
            SetTimer: self._set,
            CancelTimer: lambda effect: self._cancel(effect.key),
            Emit: lambda effect: on_event(effect.event),
            **(handlers or {}),
        }

    @property
    def timers(self) -> int:
        """How many are set."""
        return len(self._timers)

    def feed(self, step: Step) -> None:
        """``step(now)`` calls a method of the machine."""
        self._inputs.append(step)
        if self._feeding:
            return
        self._feeding = True
        try:
            while self._inputs:
                now = self._earliest = max(self._earliest, self._clock.read(self._scheduler.now))
                for effect in self._inputs.popleft()(now):
                    self._handlers[type(effect)](effect)
        finally:
            self._feeding = False

    def stop(self) -> None:
        """No timer fires any more."""
        for entry in self._timers.values():
            entry.cancel()
        self._timers.clear()

    def _set(self, effect: SetTimer) -> None:
        self._cancel(effect.key)
        wait = self._clock.until(effect.at, self._scheduler.now)
        self._timers[effect.key] = self._scheduler.after(wait, self._due, effect.key, effect.at)

    def _cancel(self, key: Hashable) -> None:
        entry = self._timers.pop(key, None)
        if entry is not None:
            entry.cancel()

    def _due(self, key: Hashable, at: float) -> None:
        entry = self._timers[key]
        # Clocks round: without the bound a timer could be due a hair before its time, and the machine would wait on.
        self._earliest = max(self._earliest, at)

        def fire() -> None:
            if self._timers.get(key) is entry:
                del self._timers[key]
                self.feed(lambda now: self._machine.timer(now, key))

        self._run(fire)
