"""Three machines on one cable, as far as a network can tell: network namespaces, joined by veth pairs and a bridge.

They have names in /run/netns while a test runs.  Nothing is changed in the namespace of the test itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

_CLONE_NEWNET = 0x40000000
_ALL_PROTOCOLS = 0x0003
_BUFFER = 64 << 20
Value = TypeVar("Value")


def impossible() -> str:
    """Why there can be none here; "" if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need ip (Debian: iproute2)"
    name = f"lp-{secrets.token_hex(3)}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if tried.returncode == 0:
        _ip("netns", "delete", name)
    return tried.stderr.strip()


@dataclass(frozen=True)
class Machine:
    """A namespace with the address ``host`` on its interface eth0."""

    name: str
    host: str

    @property
    def path(self) -> str:
        return f"/run/netns/{self.name}"

    def inside(self, do: Callable[[], Value]) -> Value:
        """``do()`` on a thread in this namespace; sockets made there stay there."""
        results: list[Value] = []

        def run() -> None:
            enter(self.path)
            results.append(do())

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        return results[0]

    def tap(self) -> socket.socket:
        """A socket that receives everything that passes eth0 from now on, both ways."""

        def listen() -> socket.socket:
            tapping = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS))
            tapping.setsockopt(socket.SOL_SOCKET, 33, _BUFFER)  # SO_RCVBUFFORCE
            tapping.bind(("eth0", 0))
            tapping.setblocking(False)
            return tapping

        return self.inside(listen)


def enter(path: str) -> None:
    """Move this thread to the network namespace at ``path`` (setns(2)); threads that it starts will be there, too."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def machines(count: int) -> Iterator[list[Machine]]:
    """So many, which see each other and nobody else."""
    mark = secrets.token_hex(3)
    hub, found = f"lp-{mark}-hub", [Machine(f"lp-{mark}-{n}", f"10.83.7.{n}") for n in range(1, count + 1)]
    with contextlib.ExitStack() as stack:
        for name in (hub, *(machine.name for machine in found)):
            _ip("netns", "add", name)
            stack.callback(_ip, "netns", "delete", name)
        _ip("-n", hub, "link", "add", "cable", "type", "bridge")
        _ip("-n", hub, "link", "set", "cable", "up")
        for number, machine in enumerate(found):
            _ip("-n", hub, "link", "add", f"p{number}", "type", "veth", "peer", "name", "eth0", "netns", machine.name)
            _ip("-n", hub, "link", "set", f"p{number}", "master", "cable", "up")
            _ip("-n", machine.name, "link", "set", "lo", "up")
            _ip("-n", machine.name, "address", "add", f"{machine.host}/24", "dev", "eth0")
            _ip("-n", machine.name, "link", "set", "eth0", "up")
        yield found


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
