"""What can become of a call, and of a frame."""

from __future__ import annotations

import random

import pytest
from processes_in_memory import Process, info

from lepton_p2p.simulation.network import Door, Network
from lepton_p2p.simulation.scheduler import Scheduler
from lepton_p2p.simulation.streams import Frame, Stream, checksum
from lepton_p2p.simulation.weather import Weather

A, B = "host-1:1", "host-2:1"


def call(network: Network, door: Door = Door.OPEN) -> tuple[list[float], list[tuple[float, bool]]]:
    """A call from A to B: when it arrived, and when and how it ended for the caller."""
    arrived: list[float] = []
    ended: list[tuple[float, bool]] = []

    def arrive() -> Door:
        arrived.append(network.scheduler.now)
        return door

    network.call(A, B, arrive, lambda ok: ended.append((network.scheduler.now, ok)))
    network.scheduler.run(network.scheduler.now + 100.0)
    return arrived, ended


def test_a_call_arrives_and_its_caller_knows(network: Network) -> None:
    arrived, ended = call(network)
    assert len(arrived) == 1
    assert ended[0][1]


def test_nobody_listening_is_known_soon_a_stopped_process_only_late(network: Network) -> None:
    ((when, ok),) = call(network, Door.SHUT)[1]
    assert when < 0.1
    assert not ok
    arrived, ended = call(network, Door.STOPPED)
    assert arrived
    assert not ended[0][1]
    assert ended[0][0] >= network.timeout


@pytest.mark.parametrize("fault", ["cut", "clog", "power"])
def test_what_cannot_get_through_fails_late_and_the_way_back_counts_too(network: Network, fault: str) -> None:
    if fault == "cut":
        network.cut([A], [B])
    elif fault == "clog":
        network.clog(A, B, 50.0)
    else:
        network.power(B, on=False)
    arrived, ended = call(network)
    assert not arrived
    assert ended == [(pytest.approx(network.timeout), False)]


def test_in_a_one_way_cut_the_message_arrives_and_the_answer_does_not(network: Network) -> None:
    network.cut([B], [A])
    arrived, ended = call(network)
    assert arrived
    assert not ended[0][1]


def test_a_cut_ends_when_it_is_healed_and_a_clog_by_itself(network: Network) -> None:
    heal = network.cut([A], [B])
    assert not network.reaches(A, B)
    assert network.reaches(B, A)
    heal()
    network.clog(A, B, 1.0)
    assert not network.reaches(A, B)
    network.scheduler.run(1.0)
    assert network.reaches(A, B)


def test_with_loss_some_calls_arrive_although_their_caller_thinks_not_and_some_twice(scheduler: Scheduler) -> None:
    network = Network(scheduler, random.Random(2), Weather(loss=0.3, twice=0.2), 2.0)
    kinds = set()
    for _ in range(200):
        arrived, ended = call(network)
        kinds.add((len(arrived), ended[0][1]))
    assert kinds == {(0, False), (1, False), (1, True), (2, True)}
    assert network.counts["loss"] > 20


def frame(number: int) -> Frame:
    payload = (number, 7)
    return Frame(1, 1, number, 0, 0, 0, payload, checksum(payload), b"")


def stream(network: Network) -> tuple[Stream, Process, Process, list[int], list[str]]:
    source, target = Process(info(1)), Process(info(2))
    made = Stream(network, source, target)
    got: list[int] = []
    lost: list[str] = []
    made.on_frame = lambda frame: got.append(frame.round)
    made.on_lost[target] = lost.append
    return made, source, target, got, lost


def test_frames_arrive_in_order_even_where_things_get_lost(scheduler: Scheduler) -> None:
    network = Network(scheduler, random.Random(3), Weather(loss=0.3, tail=0.2), 2.0)
    made, _, _, got, _ = stream(network)
    for number in range(100):
        made.send(frame(number))
    scheduler.run(1000.0)
    assert got == list(range(100))
    assert network.counts["retransmission"] > 10


def test_a_stall_delays_frames_and_silence_is_seen_meanwhile(network: Network) -> None:
    made, _, _, got, _ = stream(network)
    heal = network.cut([A], [B])
    made.send(frame(1))
    network.scheduler.run(10.0)
    assert (got, made.look()) == ([], 0.0)
    heal()
    network.scheduler.run(20.0)
    assert (got, made.look()) == ([1], 20.0)


def test_a_stopped_process_finds_its_frames_when_it_goes_on(network: Network) -> None:
    made, source, target, got, _ = stream(network)
    target.stopped = True
    made.send(frame(1))
    network.scheduler.run(1.0)
    assert got == []
    target.go_on()
    assert got == [1]
    source.stopped = True
    network.scheduler.run(9.0)
    assert made.look() < 2.0, "a stopped sender gives no sign of life"


def test_the_other_end_learns_of_a_crash_after_what_was_under_way_or_not_at_all_if_that_is_lost(
    scheduler: Scheduler,
) -> None:
    outcomes = set()
    for seed in range(40):
        network = Network(scheduler, random.Random(seed), Weather(), 2.0)
        made, source, _, got, lost = stream(network)
        made.send(frame(1))
        source.alive = False
        made.close(source, "connection reset")
        scheduler.run(scheduler.now + 10.0)
        outcomes.add((tuple(got), tuple(lost)))
    assert outcomes == {((1,), ("connection reset",)), ((), ("connection reset",))}


def test_a_crash_behind_a_cut_is_not_heard_of_until_it_heals(network: Network) -> None:
    made, source, _, _, lost = stream(network)
    heal = network.cut([A], [B])
    made.close(source, "connection reset")
    network.scheduler.run(30.0)
    assert lost == []
    heal()
    network.scheduler.run(40.0)
    assert lost == ["connection reset"]


def test_a_flipped_bit_shows_in_the_checksum(scheduler: Scheduler) -> None:
    network = Network(scheduler, random.Random(5), Weather(flips=0.5), 2.0)
    made, *_ = stream(network)
    intact: list[bool] = []
    made.on_frame = lambda frame: intact.append(frame.intact)
    for number in range(50):
        made.send(frame(number))
    scheduler.run(10.0)
    assert intact.count(False) == network.counts["flip"] > 10
