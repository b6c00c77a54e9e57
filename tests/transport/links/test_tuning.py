"""Socket options: set where the kernel lets them be set, and never a reason to fail."""

from __future__ import annotations

import socket
import sys

import pytest

from lepton_p2p.transport.links.tuning import round_trip, tune


def pair() -> tuple[socket.socket, socket.socket]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        left = socket.create_connection(listener.getsockname())
        right, _ = listener.accept()
    return left, right


@pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO is Linux's")
def test_near_neighbours_get_reno_and_no_delay() -> None:
    left, right = pair()
    with left, right:
        rtt = round_trip(left)
        assert rtt is not None
        assert 0 < rtt < 1
        tune(left)
        assert left.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        if rtt < 0.0005:
            assert left.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).startswith(b"reno")


def test_a_socket_that_knows_none_of_it_is_left_alone() -> None:
    left, right = socket.socketpair()
    with left, right:
        assert round_trip(left) is None
        tune(left)
        left.sendall(b"works")
        assert right.recv(5) == b"works"
