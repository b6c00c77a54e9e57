"""Machines that are network namespaces: they hear each other, until something is done to the network."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from network_namespaces import BRIDGE, Network, impossible, seclusion

pytestmark = pytest.mark.skipif(bool(why := impossible()), reason=f"no network namespaces: {why}")
TRIAL = Path(__file__).with_name("network_trial.py")


def test_what_is_done_to_a_network_has_its_effect_and_is_undone() -> None:
    with seclusion() as place:
        before = place.seen()
        argv = place.argv(sys.executable, str(TRIAL))
        found = subprocess.run(argv, capture_output=True, text=True, timeout=50, check=False)
        assert place.seen() == before, "something was left behind"
    assert found.returncode == 0, found.stderr
    assert dict(line.split(maxsplit=1) for line in found.stdout.splitlines()) == {
        "nothing": "hello",
        "cut": "TimeoutError",
        "deaf": "TimeoutError",
        "dumb": "TimeoutError",
        "loss": "TimeoutError",
        "reset": "ConnectionRefusedError",
        "rate": "hello",
        "down": "TimeoutError",
        "undone": "hello",
        "outside": "connected",
    }


async def test_a_network_with_its_bridge_elsewhere_shows_nothing_here() -> None:
    with closing(Network(here=False)) as network:
        await network.build(2)
        one, two = network.places
        # By name: others may make interfaces of their own meanwhile.
        assert not {BRIDGE, "port1", "port2"} & {name for _, name in socket.if_nameindex()}
        with one.inside(lambda: socket.create_server((one.host, 0))) as server:
            address = server.getsockname()
            with two.inside(lambda: socket.create_connection(address, timeout=20)), server.accept()[0] as call:
                assert call.getpeername()[0] == two.host
