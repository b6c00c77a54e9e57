"""The waiting room: everybody is let in, and those who crowd it have to go."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from lepton_p2p.transport.links.strangers import WaitingRoom


def filled(*addresses: str, total: int = 100, each: int = 100) -> tuple[WaitingRoom[int], list[int]]:
    """A room into which guests came in this order, and who had to go."""
    room: WaitingRoom[int] = WaitingRoom(total=total, each=each)
    gone = []
    for guest, address in enumerate(addresses):
        out = room.enter(guest, address)
        if out is not None:
            room.leave(out)
            gone.append(out)
    return room, gone


def test_the_longest_waiting_of_an_address_goes_when_it_has_too_many() -> None:
    room, gone = filled("a", "b", "a", "a", "a", each=2)
    assert gone == [0, 2]
    assert set(room) == {1, 3, 4}


def test_a_full_room_costs_the_address_with_the_most_and_not_who_has_been_there_longest() -> None:
    room, gone = filled("b", "a", "a", "a", "c", "d", total=4)
    assert gone == [1, 2]
    assert set(room) == {0, 3, 4, 5}


def test_who_has_left_takes_no_place() -> None:
    room, _ = filled("a", "a", each=2)
    room.leave(0)
    room.leave(0)
    assert room.enter(7, "a") is None
    assert len(room) == 2


@given(st.lists(st.sampled_from("abcdef"), max_size=60), st.integers(1, 8), st.integers(1, 8))
def test_there_are_never_too_many_and_the_last_who_came_is_always_in(came: list[str], total: int, each: int) -> None:
    room: WaitingRoom[int] = WaitingRoom(total=total, each=each)
    inside: dict[int, str] = {}
    for guest, address in enumerate(came):
        inside[guest] = address
        out = room.enter(guest, address)
        if out is not None:
            room.leave(out)
            del inside[out]
        assert set(room) == set(inside)
        assert guest in inside
        assert len(room) <= total
        assert max(Counter(inside.values()).values()) <= each
