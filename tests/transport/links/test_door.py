"""Handing a descriptor from one process to another: the one that was offered for, and no other."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator

import pytest

from lepton_p2p.transport.links.door import OFFER_BYTES, Door, hand_in

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="abstract Unix sockets are Linux's")


@pytest.fixture
def door() -> Iterator[Door]:
    door = Door()
    yield door
    door.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_a_descriptor_arrives(door: Door, pipe: tuple[int, int]) -> None:
    offer = door.offer()
    assert len(offer) == OFFER_BYTES
    assert hand_in(offer, pipe[0])
    fd = door.collect(offer)
    assert fd is not None
    os.write(pipe[1], b"through")
    assert os.read(fd, 10) == b"through"
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_each_offer_gets_its_own(door: Door, pipe: tuple[int, int]) -> None:
    first, second = door.offer(), door.offer()
    assert hand_in(second, pipe[1])
    assert hand_in(first, pipe[0])
    fds = [door.collect(first), door.collect(second)]
    assert None not in fds
    os.write(fds[1] or -1, b"x")
    assert os.read(fds[0] or -1, 1) == b"x"
    for fd in fds:
        os.close(fd or -1)


def test_an_offer_is_good_until_it_is_withdrawn(door: Door, pipe: tuple[int, int]) -> None:
    offer = door.offer()
    for _ in range(3):
        assert hand_in(offer, pipe[0])
        fd = door.collect(offer)
        assert fd is not None
        os.close(fd)
        assert door.collect(offer) is None
    door.withdraw(offer)
    assert hand_in(offer, pipe[0])
    assert door.collect(offer) is None


def test_what_was_not_offered_for_is_closed(door: Door) -> None:
    offer = door.offer()
    forged = offer[: OFFER_BYTES // 2] + bytes(OFFER_BYTES // 2)
    reader, writer = os.pipe()
    assert hand_in(forged, writer)
    os.close(writer)
    assert door.collect(offer) is None
    assert os.read(reader, 1) == b"", "the door holds the other end open"
    os.close(reader)


def test_what_was_handed_in_is_collected_in_order_and_not_much_of_it(door: Door) -> None:
    offer = door.offer()
    pipes = [os.pipe() for _ in range(3)]
    for reader, _ in pipes:
        assert hand_in(offer, reader)
        os.close(reader)
    for _, writer in pipes[:2]:
        fd = door.collect(offer)
        assert fd is not None
        os.write(writer, b"1")
        assert os.read(fd, 1) == b"1"
        os.close(fd)
    assert door.collect(offer) is None
    with pytest.raises(BrokenPipeError):
        os.write(pipes[2][1], b"1")
    for _, writer in pipes:
        os.close(writer)


@pytest.mark.parametrize("gone", ["withdrawn", "closed"])
def test_what_nobody_collects_is_closed(gone: str) -> None:
    door = Door()
    kept, offer = door.offer(), door.offer()
    reader, writer = os.pipe()
    assert hand_in(offer, writer)
    os.close(writer)
    assert door.collect(kept) is None  # reads what waits
    if gone == "withdrawn":
        door.withdraw(offer)
        door.withdraw(offer)
    door.close()
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_a_door_that_is_not_in_reach_takes_nothing(pipe: tuple[int, int]) -> None:
    door = Door()
    offer = door.offer()
    door.close()
    assert not hand_in(offer, pipe[0])
    assert not hand_in(b"too short", pipe[0])


def test_datagrams_without_a_descriptor_do_no_harm(door: Door, pipe: tuple[int, int]) -> None:
    offer = door.offer()
    address = door._socket.getsockname()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(b"", address)
        stranger.sendto(offer[OFFER_BYTES // 2 :], address)
        stranger.sendto(b"x" * 1000, address)
    assert hand_in(offer, pipe[0])
    fd = door.collect(offer)
    assert fd is not None
    os.close(fd)


def test_of_several_descriptors_in_one_datagram_none_is_kept(door: Door) -> None:
    offer = door.offer()
    reader, writer = os.pipe()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        stranger.connect(door._socket.getsockname())
        socket.send_fds(stranger, [offer[OFFER_BYTES // 2 :]], [writer, writer, writer])
    os.close(writer)
    fd = door.collect(offer)
    door.withdraw(offer)
    if fd is not None:
        os.close(fd)
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_a_flooded_door_takes_nothing_more_and_nobody_waits(door: Door, pipe: tuple[int, int]) -> None:
    offer = door.offer()
    while hand_in(offer[: OFFER_BYTES // 2] + os.urandom(OFFER_BYTES // 2), pipe[0]):
        pass
    assert not hand_in(offer, pipe[0])
    assert door.collect(offer) is None


def test_one_who_sends_without_end_does_not_keep_the_door_busy(
    door: Door, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    offer, read = door.offer(), Door._read
    reads = 0

    def with_more_behind_it(one: Door) -> None:
        nonlocal reads
        reads += 1
        assert hand_in(offer[:16] + bytes(16), pipe[0]), "a stranger, who has not the secret"
        read(one)

    monkeypatch.setattr(Door, "_read", with_more_behind_it)
    monkeypatch.setattr("lepton_p2p.transport.links.door._READ_AT_ONCE", 50)
    assert door.collect(offer) is None
    assert reads == 50
