"""Virtual time and clocks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lepton_p2p.simulation.machine import Clock
from lepton_p2p.simulation.scheduler import Scheduler


def test_things_happen_in_the_order_of_their_time_and_then_of_asking() -> None:
    scheduler, seen = Scheduler(), list[str]()
    scheduler.after(2.0, seen.append, "late")
    scheduler.after(1.0, seen.append, "first")
    scheduler.after(1.0, seen.append, "second")
    assert not scheduler.run(10.0)
    assert seen == ["first", "second", "late"]
    assert scheduler.now == 10.0


def test_what_is_cancelled_does_not_happen_and_what_is_beyond_the_end_waits() -> None:
    scheduler, seen = Scheduler(), list[str]()
    scheduler.after(1.0, seen.append, "cancelled").cancel()
    scheduler.after(5.0, seen.append, "later")
    scheduler.run(4.0)
    assert seen == []
    scheduler.run(5.0)
    assert seen == ["later"]


def test_it_stops_as_soon_as_somebody_has_seen_enough() -> None:
    scheduler, seen = Scheduler(), list[int]()
    for number in range(5):
        scheduler.after(number, seen.append, number)
    assert scheduler.run(10.0, lambda: len(seen) == 3)
    assert (seen, scheduler.now) == ([0, 1, 2], 2.0)


@given(st.floats(-1e5, 1e5), st.floats(0.9, 1.1), st.floats(0, 1e4), st.floats(0, 1e3))
def test_a_wrong_clock_shows_what_was_waited_for(skew: float, rate: float, now: float, wait: float) -> None:
    clock = Clock(skew, rate)
    seconds = clock.until(clock.read(now) + wait, now)
    assert abs(clock.read(now + seconds) - (clock.read(now) + wait)) < 1e-6
