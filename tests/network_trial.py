"""Two places of a ``Network``: what one hears of the other, one line for each thing that was done to the network.

A program, since whoever makes a network lives in namespaces of its own; run by ``test_network_namespaces.py``.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from network_namespaces import Network, Place, apart, live_apart

PORT = 5000
LISTEN = f"""
import socket
with socket.create_server(("", {PORT})) as server:
    print("listening", flush=True)
    while True:
        caller, _ = server.accept()
        with caller:
            caller.sendall(b"hello")
"""
CALL = f"""
import socket, sys
try:
    with socket.create_connection((sys.argv[1], {PORT}), timeout=0.7) as call:
        print(call.recv(5).decode() or "hung up")
except OSError as error:
    print(type(error).__name__)
"""


async def call(place: Place, other: Place) -> str:
    return (await place.run(sys.executable, "-S", "-c", CALL, other.host)).strip()


async def trial(here: Place, there: Place) -> None:
    """Each thing is done, looked at, and undone."""
    drop_all = ("INPUT", "--match", "statistic", "--mode", "random", "--probability", "1.0", "--jump", "DROP")
    reset = ("INPUT", "--protocol", "tcp", "--jump", "REJECT", "--reject-with", "tcp-reset")
    shape = ("root", "tbf", "rate", "1mbit", "burst", "32kbit", "latency", "400ms")
    deeds: dict[str, Callable[[str], Awaitable[object]]] = {
        "cut": lambda verb: here.cut(verb, [there], heard=True, said=True),
        "deaf": lambda verb: here.cut(verb, [there], heard=True, said=False),
        "dumb": lambda verb: here.cut(verb, [there], heard=False, said=True),
        "loss": lambda verb: here.rule(verb, *drop_all),
        "reset": lambda verb: there.rule(verb, *reset),
        "rate": lambda verb: here.run("tc", "qdisc", "add" if verb == "-I" else "del", "dev", "eth0", *shape),
        "down": lambda verb: there.run("ip", "link", "set", "eth0", "down" if verb == "-I" else "up"),
    }
    print("nothing", await call(here, there))
    for name, deed in deeds.items():
        await deed("-I")
        print(name, await call(here, there))
        await deed("-D")
    print("undone", await call(here, there))


async def main() -> None:
    network = Network()
    await network.build(2)
    here, there = network.places
    server = await asyncio.create_subprocess_exec(
        *("nsenter", f"--net={there.path}", "--", sys.executable, "-S", "-c", LISTEN), stdout=asyncio.subprocess.PIPE
    )
    assert server.stdout is not None
    assert await server.stdout.readline() == b"listening\n"
    try:
        await trial(here, there)
        try:
            socket.create_connection((there.host, PORT), timeout=2).close()
            print("outside connected")
        except OSError as error:
            print("outside", type(error).__name__)
    finally:
        server.kill()
        await server.wait()
        network.close()


if __name__ == "__main__":
    if not apart():
        live_apart()
    asyncio.run(main())
