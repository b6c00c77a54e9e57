"""The driver performs what a machine asks for: in order, once, and never after it has stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from structlog.testing import capture_logs

from lepton_p2p.driver import MachineDriver
from lepton_p2p.errors import LeptonError, SwarmUnreachable
from lepton_p2p.sansio import CancelTimer, Emit, Send, SetTimer

DEADLINE = 10.0


@dataclass(frozen=True)
class Mark:
    """An effect of the toy machine's own."""

    name: str


@dataclass
class Toy:
    """Does what it is told and remembers what it was told."""

    told: list[tuple[object, ...]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    on_timer: list[object] = field(default_factory=list)

    def do(self, now: float, *effects: object) -> list[object]:
        self.times.append(now)
        self.told.append(("do", len(effects)))
        return list(effects)

    def fail(self, now: float) -> list[object]:
        raise KeyError("bug")

    def timer(self, now: float, key: Hashable) -> list[object]:
        self.times.append(now)
        self.told.append(("timer", key))
        return self.on_timer

    def send_failed(self, now: float, to: str, message: str) -> list[object]:
        self.told.append(("failed", to, message))
        return [Emit(f"{message} was lost")]


class World:
    """The toy's surroundings: what left, what happened, and a gate that holds deliveries back."""

    def __init__(self) -> None:
        self.toy = Toy()
        self.happened: list[object] = []
        self.crashes: list[Exception] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.unreachable: set[str] = set()
        self.started: list[tuple[str, str]] = []
        self.changed = asyncio.Event()
        self.on_event: Callable[[object], None] = self.note
        self.driver: MachineDriver[Toy, str]

    def note(self, what: object) -> None:
        self.happened.append(what)
        self.changed.set()

    def crash(self, error: Exception) -> None:
        self.crashes.append(error)
        self.changed.set()

    async def send(self, to: str, message: str) -> None:
        self.started.append((to, message))
        self.changed.set()
        await self.gate.wait()
        if to in self.unreachable:
            raise SwarmUnreachable(f"nobody answers at {to}")
        self.note((to, message))

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


@asynccontextmanager
async def running(**options: int) -> AsyncIterator[World]:
    world = World()
    world.driver = MachineDriver(
        world.toy,
        send=world.send,
        on_event=lambda event: world.on_event(event),
        on_crash=world.crash,
        handlers={Mark: world.note},
        **options,  # type: ignore[arg-type]
    )
    try:
        yield world
    finally:
        await world.driver.aclose()
    assert world.driver.statistics().pending == 0
    assert world.driver.statistics().timers == 0


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_effects_are_performed_in_order_before_feed_returns() -> None:
    async with running() as world:
        world.driver.feed(world.toy.do, Emit(1), Mark("a"), Emit(2), Mark("b"))
        assert world.happened == [1, Mark("a"), 2, Mark("b")]


async def test_what_a_callback_feeds_comes_after_the_step_that_called_it() -> None:
    async with running() as world:

        def on_event(event: object) -> None:
            world.note(event)
            if event == "first":
                world.driver.feed(world.toy.do, Emit("inner"))
                assert world.happened == ["first"]

        world.on_event = on_event
        world.driver.feed(world.toy.do, Emit("first"), Emit("second"))
        assert world.happened == ["first", "second", "inner"]


async def test_a_timer_fires_once_and_never_early() -> None:
    async with running() as world:
        world.toy.on_timer = [Emit("tick")]
        due = now() + 0.01
        world.driver.feed(world.toy.do, SetTimer("t", due))
        await world.until(lambda: "tick" in world.happened)
        assert world.toy.told == [("do", 1), ("timer", "t")]
        assert world.toy.times[-1] >= due
        assert world.driver.statistics().timers == 0


async def test_a_timer_set_again_replaces_the_first() -> None:
    async with running() as world:
        world.toy.on_timer = [Emit("tick")]
        world.driver.feed(world.toy.do, SetTimer("t", now() + 3600), SetTimer("t", now()))
        assert world.driver.statistics().timers == 1
        assert world.happened == []
        await world.until(lambda: "tick" in world.happened)
        assert world.driver.statistics().timers == 0


async def test_a_cancelled_timer_does_not_fire_and_unknown_ones_are_ignored() -> None:
    async with running() as world:
        world.toy.on_timer = [Emit("tick")]
        world.driver.feed(world.toy.do, SetTimer("a", now()), SetTimer("b", now()), CancelTimer("a"), CancelTimer("x"))
        await world.until(lambda: "tick" in world.happened)
        assert [what for what in world.toy.told if what[0] == "timer"] == [("timer", "b")]


async def test_a_timer_may_set_itself_again() -> None:
    async with running() as world:
        world.toy.on_timer = [Emit("tick"), SetTimer("t", 0.0)]
        world.driver.feed(world.toy.do, SetTimer("t", 0.0))
        await world.until(lambda: len(world.happened) >= 3)


async def test_the_machine_never_sees_time_go_back() -> None:
    readings = iter([5.0, 7.0, 6.0, 6.5, 8.0])
    toy = Toy()
    driver: MachineDriver[Toy, str] = MachineDriver(
        toy, send=World().send, on_event=print, on_crash=print, clock=lambda: next(readings)
    )
    for _ in range(4):
        driver.feed(toy.do)
    assert toy.times == [7.0, 7.0, 7.0, 8.0]
    await driver.aclose()


async def test_messages_to_one_destination_arrive_in_order_one_at_a_time() -> None:
    async with running() as world:
        world.gate.clear()
        world.driver.feed(world.toy.do, *(Send("x", str(i)) for i in range(10)), Send("y", "other"))
        await world.until(lambda: len(world.started) == 2)
        assert world.started == [("x", "0"), ("y", "other")]
        world.gate.set()
        await world.driver.flush()
        assert [m for to, m in world.started if to == "x"] == [str(i) for i in range(10)]
        assert world.driver.statistics().sent == 11


async def test_with_a_wider_lane_a_message_passes_one_that_hangs() -> None:
    async with running(width=3) as world:
        world.gate.clear()
        world.driver.feed(world.toy.do, *(Send("x", str(i)) for i in range(5)))
        await world.until(lambda: len(world.started) == 3)
        assert world.driver.statistics().pending == 5
        world.gate.set()
        await world.driver.flush()
        assert len(world.started) == 5


async def test_a_destination_that_does_not_answer_costs_a_bounded_amount() -> None:
    async with running(capacity=4) as world:
        world.gate.clear()
        world.driver.feed(world.toy.do, Send("x", "first"))
        await world.until(lambda: world.started == [("x", "first")])
        world.driver.feed(world.toy.do, *(Send("x", str(i)) for i in range(10)))
        assert world.driver.statistics().dropped == 6
        world.gate.set()
        await world.driver.flush()
        assert [m for _, m in world.started] == ["first", "6", "7", "8", "9"]


async def test_a_failed_delivery_is_fed_back_and_the_next_one_is_tried() -> None:
    async with running() as world:
        world.unreachable.add("x")
        world.driver.feed(world.toy.do, Send("x", "a"), Send("x", "b"), Send("y", "c"))
        await world.driver.flush()
        assert [what for what in world.toy.told if what[0] == "failed"] == [("failed", "x", "a"), ("failed", "x", "b")]
        assert {"a was lost", "b was lost", ("y", "c")} == set(world.happened)
        statistics = world.driver.statistics()
        assert (statistics.sent, statistics.failed, statistics.dropped) == (1, 2, 0)


async def test_flush_waits_for_messages_that_failures_caused() -> None:
    async with running() as world:
        world.unreachable.add("x")
        world.on_event = lambda event: world.driver.feed(world.toy.do, Send("y", f"because {event}"))
        world.driver.feed(world.toy.do, Send("x", "a"))
        await world.driver.flush()
        assert world.happened == [("y", "because a was lost")]


async def test_a_bug_in_the_machine_stops_the_driver_loudly_and_once() -> None:
    async with running() as world:
        world.gate.clear()
        world.driver.feed(world.toy.do, SetTimer("t", now() + 3600), Send("x", "a"))
        with capture_logs() as logs:
            world.driver.feed(world.toy.fail)
            world.driver.feed(world.toy.fail)
        assert [type(error) for error in world.crashes] == [KeyError]
        assert [entry["log_level"] for entry in logs] == ["error"]
        assert world.driver.stopped
        assert world.driver.statistics().timers == 0
        told = len(world.toy.told)
        world.driver.feed(world.toy.do, Emit(1))
        assert len(world.toy.told) == told


async def test_a_bug_in_a_callback_stops_the_driver_and_the_rest_of_the_step() -> None:
    async with running() as world:

        def on_event(event: object) -> None:
            raise ZeroDivisionError

        world.on_event = on_event
        world.driver.feed(world.toy.do, Mark("before"), Emit(1), Mark("after"))
        assert world.happened == [Mark("before")]
        assert [type(error) for error in world.crashes] == [ZeroDivisionError]


async def test_a_bug_in_sending_stops_the_driver() -> None:
    toy, crashes = Toy(), list[Exception]()

    async def send(to: str, message: str) -> None:
        raise TypeError("cannot be encoded")

    driver = MachineDriver(toy, send=send, on_event=print, on_crash=crashes.append)
    driver.feed(toy.do, Send("x", "a"))
    await driver.flush()
    assert [type(error) for error in crashes] == [TypeError]
    assert toy.told == [("do", 1)]
    await driver.aclose()


async def test_an_effect_that_nobody_can_perform_is_a_bug() -> None:
    async with running() as world:
        world.driver.feed(world.toy.do, object())
        assert [type(error) for error in world.crashes] == [LeptonError]
        assert "Toy" in str(world.crashes[0])


async def test_closing_cancels_what_is_on_its_way_and_nothing_happens_after() -> None:
    async with running() as world:
        world.gate.clear()
        world.driver.feed(
            world.toy.do, SetTimer("t", now()), Send("x", "a"), Send("x", "b"), Send("never started", "c")
        )
        await world.until(lambda: ("x", "a") in world.started)
        await world.driver.aclose()
        world.gate.set()
        world.driver.feed(world.toy.do, Emit("late"))
        await world.driver.flush()
        assert not [what for what in world.happened if isinstance(what, tuple) or what == "late"]
        assert world.crashes == []
        await world.driver.aclose()


async def test_closing_right_after_a_send_leaves_no_task() -> None:
    before = asyncio.all_tasks()
    async with running() as world:
        world.driver.feed(world.toy.do, Send("x", "a"))
        await world.driver.aclose()
        assert world.started == []
    assert asyncio.all_tasks() == before


async def test_a_callback_may_close_the_driver_and_its_step_is_the_last() -> None:
    async with running() as world:
        closing: list[asyncio.Task[None]] = []

        def stop(event: object) -> None:
            closing.append(asyncio.create_task(world.driver.aclose()))

        world.on_event = stop
        world.driver.feed(world.toy.do, Emit("stop"), Mark("same step"))
        assert world.happened == [Mark("same step")]
        await closing[0]
        world.driver.feed(world.toy.do, Mark("next step"))
        assert world.happened == [Mark("same step")]
        assert world.driver.stopped


@pytest.mark.parametrize("error", [OSError("gone"), TimeoutError("late"), LeptonError("no")])
async def test_trouble_in_the_network_is_no_crash(error: Exception) -> None:
    toy, crashes = Toy(), list[Exception]()

    async def send(to: str, message: str) -> None:
        raise error

    driver = MachineDriver(toy, send=send, on_event=lambda event: None, on_crash=crashes.append)
    driver.feed(toy.do, Send("x", "a"))
    await driver.flush()
    assert crashes == []
    assert ("failed", "x", "a") in toy.told
    await driver.aclose()
