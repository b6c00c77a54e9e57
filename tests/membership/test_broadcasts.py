"""What is told how often."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from swim_network import info

from lepton_p2p.membership import Rumour, Status
from lepton_p2p.membership.broadcasts import Broadcasts


def rumour(number: int, incarnation: int = 0) -> Rumour:
    return Rumour(info(number), Status.ALIVE, incarnation)


@given(subjects=st.integers(0, 30), room=st.integers(1, 8), limit=st.integers(1, 6))
def test_each_is_told_exactly_the_limit_and_then_never_again(subjects: int, room: int, limit: int) -> None:
    queue = Broadcasts()
    for number in range(subjects):
        queue.put(rumour(number))
    told: Counter[Rumour] = Counter()
    while len(queue):
        packet = queue.take(room, limit)
        assert 0 < len(packet) <= room
        assert len({r.peer.id for r in packet}) == len(packet)
        told.update(packet)
        assert max(told.values()) - min(told[rumour(n)] for n in range(subjects)) <= 1, "the least told goes first"
    assert told == Counter({rumour(n): limit for n in range(subjects)})


def test_newer_facts_replace_older_ones_and_start_from_zero() -> None:
    queue = Broadcasts()
    queue.put(rumour(1))
    queue.take(1, 2)
    queue.put(rumour(1, 1))
    assert [queue.take(1, 2) for _ in range(3)] == [[rumour(1, 1)], [rumour(1, 1)], []]


def test_the_newest_of_the_least_told_goes_first() -> None:
    queue = Broadcasts()
    for number in (1, 2):
        queue.put(rumour(number))
    queue.take(2, 9)
    for number in (3, 4):
        queue.put(rumour(number))
    assert [r.peer for r in queue.take(3, 9)] == [info(4), info(3), info(2)]


def test_what_is_on_the_packet_already_is_skipped() -> None:
    queue = Broadcasts()
    queue.put(rumour(1))
    assert queue.take(5, 1, skip=[info(1).id]) == []
    assert info(1).id in queue


def test_no_room_takes_nothing() -> None:
    queue = Broadcasts()
    queue.put(rumour(1))
    assert queue.take(0, 3) == []
    assert len(queue) == 1
