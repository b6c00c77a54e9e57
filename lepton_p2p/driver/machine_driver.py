"""The asyncio side of a sans-IO machine (see ``sansio``): the same machine runs in the simulator unchanged."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

import structlog

from lepton_p2p.driver.lanes import Lanes
from lepton_p2p.driver.timers import Timers
from lepton_p2p.errors import LeptonError
from lepton_p2p.sansio import CancelTimer, Emit, Send, SetTimer

_log = structlog.get_logger(__name__)

Message = TypeVar("Message")
MessageIn = TypeVar("MessageIn", contravariant=True)
MachineT = TypeVar("MachineT", bound="Machine[Any]")
P = ParamSpec("P")

Handler = Callable[[Any], None]


class Machine(Protocol[MessageIn]):
    """What every machine that a driver runs has; its other inputs are given to ``feed``."""

    def timer(self, now: float, key: Hashable) -> Sequence[object]:
        """The timer ``key`` is due."""

    def send_failed(self, now: float, to: str, message: MessageIn) -> Sequence[object]:
        """``message`` was not delivered to ``to``: refused, unreachable or too late."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Messages since the start, and what is going on now."""

    sent: int
    failed: int
    dropped: int
    """Never tried: too many waited for one destination, or the driver was closed."""
    pending: int
    timers: int


class MachineDriver(Generic[MachineT, Message]):
    """Feeds ``machine`` and performs the effects that it returns, strictly in order, on the running loop.

    send: delivers a message; a :class:`LeptonError` or ``OSError`` is fed back as ``machine.send_failed``.
    on_event: gets the event of each ``Emit``.  handlers: for effects of the machine's own, by exact type.  Callbacks
    run synchronously, in the middle of a step; what they feed is handled after that step.
    on_crash: called once if the machine, a callback or ``send`` raises anything else: that is a bug, the driver has
    stopped and the peer should end.  The error is logged before.
    clock: monotonic seconds, the loop's by default.  The machine never sees it go back, nor a timer come early.
    width, capacity: see :class:`Lanes`; width 1 keeps the order of messages to one destination.
    """

    def __init__(
        self,
        machine: MachineT,
        *,
        send: Callable[[str, Message], Awaitable[None]],
        on_event: Callable[[Any], None],
        on_crash: Callable[[Exception], None],
        handlers: Mapping[type, Handler] | None = None,
        clock: Callable[[], float] | None = None,
        width: int = 1,
        capacity: int = 64,
    ) -> None:
        self._machine = machine
        self._clock = clock or asyncio.get_running_loop().time
        self._now = self._clock()
        self._on_crash = on_crash
        self._timers = Timers(self._clock, self._timer_due)
        self._lanes = Lanes(send, failed=self._send_failed, crashed=self._crash, width=width, capacity=capacity)
        self._handlers: dict[type, Handler] = {
            Send: lambda effect: self._lanes.put(effect.to, effect.message),
            SetTimer: lambda effect: self._timers.set(effect.key, effect.at),
            CancelTimer: lambda effect: self._timers.cancel(effect.key),
            Emit: lambda effect: on_event(effect.event),
            **(handlers or {}),
        }
        self._inputs: deque[Callable[[float], Sequence[object]]] = deque()
        self._earliest = self._now
        self._feeding = False
        self._stopped = False

    def feed(
        self, method: Callable[Concatenate[float, P], Sequence[object]], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Call ``method(now, *args)`` of the machine and perform its effects before this returns.

        ``driver.feed(swim.receive, packet)``.  Within a callback the input is handled after the current step.  Does
        nothing once the driver has stopped (closed or crashed).  To be called on the loop's thread.
        """
        self._enqueue(lambda now: method(now, *args, **kwargs))

    @property
    def machine(self) -> MachineT:
        """To look at; its inputs go through :meth:`feed`."""
        return self._machine

    @property
    def stopped(self) -> bool:
        """Whether it was closed, or has crashed."""
        return self._stopped

    def statistics(self) -> Statistics:
        lanes = self._lanes
        return Statistics(lanes.sent, lanes.failures, lanes.dropped, lanes.pending, len(self._timers))

    async def flush(self) -> None:
        """Wait until every message is delivered or has failed; bound it with ``asyncio.timeout``."""
        await self._lanes.flush()

    async def aclose(self) -> None:
        """Stop: no timer fires, no callback runs any more, sends are cancelled and awaited; may be called twice."""
        self._stop()
        await self._lanes.aclose()

    def _timer_due(self, key: Hashable, at: float) -> None:
        # Loops round: without the bound a timer could be due a hair before its time, and the machine would wait on.
        self._earliest = max(self._earliest, at)
        self._enqueue(lambda now: self._machine.timer(now, key))

    def _send_failed(self, to: str, message: Message, error: Exception) -> None:
        _log.debug("not delivered", to=to, message=type(message).__name__, reason=str(error))
        self._enqueue(lambda now: self._machine.send_failed(now, to, message))

    def _enqueue(self, step: Callable[[float], Sequence[object]]) -> None:
        if self._stopped:
            return
        self._inputs.append(step)
        if self._feeding:
            return
        self._feeding = True
        try:
            while self._inputs:
                self._perform(self._inputs.popleft())
        except Exception as error:
            self._crash(error)
        finally:
            self._feeding = False

    def _perform(self, step: Callable[[float], Sequence[object]]) -> None:
        self._now = max(self._now, self._earliest, self._clock())
        for effect in step(self._now):
            handler = self._handlers.get(type(effect))
            if handler is None:
                raise LeptonError(f"the driver of {type(self._machine).__name__} cannot perform {effect!r}")
            handler(effect)

    def _stop(self) -> None:
        self._stopped = True
        self._inputs.clear()
        self._timers.clear()

    def _crash(self, error: Exception) -> None:
        if self._stopped:
            return
        self._stop()
        _log.error(
            "a state machine or its driver failed; this is a bug and the peer cannot go on",
            machine=type(self._machine).__name__,
            exc_info=error,
        )
        self._on_crash(error)
