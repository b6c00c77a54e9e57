"""Machines of their own, as far as a network can tell: Linux network namespaces joined by a bridge.

Nothing of it has a name outside, and nothing has to be removed: a ``Place`` is a descriptor, and so is the bridge, or
else whoever makes a ``Network`` lives in network and mount namespaces of its own (see :func:`live_apart`).  The kernel
takes all of it away, interfaces, rules and mounts included, when the last process in it has ended, however it ended.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

Value = TypeVar("Value")
_CLONE_NEWNET = 0x40000000
_OWN = "/proc/thread-self/ns/net"
_APART = "LEPTON_TESTS_APART"
TOOLS = ("unshare", "nsenter", "mount", "umount", "ip", "iptables", "tc", "ss")
"""Debian: util-linux, mount, iproute2, iptables."""
BRIDGE = "bridge"
DEADLINE = 60.0
"""Seconds for any of them; they take milliseconds."""


class ToolFailed(Exception):
    """A command said no; the message holds what it said."""


def enter(path: str) -> None:
    """Move this thread to the network namespace at ``path`` (setns(2)); threads that it starts will be there, too."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _set(descriptor)
    finally:
        os.close(descriptor)


def impossible() -> str:
    """Why no namespaces can be made here; "" if they can."""
    if os.geteuid() != 0:
        return "it needs root"
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"{', '.join(missing)} not installed"
    tried = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, text=True, check=False)
    return tried.stderr.strip()


def apart() -> bool:
    """Whether this program runs in namespaces of its own, because :func:`live_apart` started it."""
    return os.environ.get(_APART) == str(os.getpid())


def live_apart() -> None:
    """Start this program again, as the same process, in network and mount namespaces of its own; does not return."""
    os.environ[_APART] = str(os.getpid())
    argv = ["unshare", "--net", "--mount", "--propagation", "private", "--", sys.executable, *sys.argv]
    os.execvp(argv[0], argv)


class Seclusion:
    """Network and mount namespaces in which nothing happens but what a test does there."""

    def __init__(self, keeper: int) -> None:
        self._keeper = keeper

    def argv(self, *argv: str) -> tuple[str, ...]:
        """What runs a program in them, as the same process; it begins in the folder ``/``."""
        spaces = (f"--net=/proc/{self._keeper}/ns/net", f"--mount=/proc/{self._keeper}/ns/mnt")
        return ("nsenter", *spaces, "--", *argv)

    def seen(self) -> tuple[list[str], str]:
        """Interfaces and mounts."""
        _, _, *interfaces = Path(f"/proc/{self._keeper}/net/dev").read_text().splitlines()
        names = sorted(line.partition(":")[0].strip() for line in interfaces)
        return names, Path(f"/proc/{self._keeper}/mounts").read_text()


@contextmanager
def seclusion() -> Iterator[Seclusion]:
    """A place to look for what a program leaves behind, whatever goes on beside it on this machine."""
    argv = ("unshare", "--net", "--mount", "--propagation", "private", "--", "cat")
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as keeper:
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        keeper.stdin.write(b"apart?\n")
        keeper.stdin.flush()
        assert keeper.stdout.readline() == b"apart?\n", "it is cat that answers, so the namespaces are made"
        yield Seclusion(keeper.pid)


async def command(*argv: str, network: int | None = None) -> str:
    """Run a program, in a namespace if one is named, and return what it prints; :class:`ToolFailed` if it fails."""
    if network is not None:
        argv = ("nsenter", f"--net=/proc/self/fd/{network}", "--", *argv)
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        pass_fds=() if network is None else (network,),
    )
    async with asyncio.timeout(DEADLINE):
        out, _ = await process.communicate()
    if process.returncode:
        raise ToolFailed(f"{' '.join(argv)}: exit status {process.returncode}: {out.decode(errors='replace').strip()}")
    return out.decode()


class Place:
    """A network namespace with one interface, ``eth0``, on the bridge."""

    def __init__(self, descriptor: int, host: str) -> None:
        self.host = host
        self._descriptor = descriptor
        self.path = f"/proc/{os.getpid()}/fd/{descriptor}"
        """For :func:`enter`, in any process of this machine."""

    def inside(self, do: Callable[[], Value]) -> Value:
        """``do()`` on a thread in this place; sockets made there stay there."""
        results: list[Value] = []

        def run() -> None:
            _set(self._descriptor)
            results.append(do())

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        return results[0]

    async def run(self, *argv: str) -> str:
        """Run a program in it."""
        return await command(*argv, network=self._descriptor)

    async def rule(self, verb: str, *rule: str) -> None:
        """``verb``: -I to lay down a rule of iptables, -D to take the same one up."""
        await self.run("iptables", "--wait", verb, *rule)

    async def cut(self, verb: str, others: Iterable[Place], *, heard: bool, said: bool) -> None:
        """Drop what comes from ``others`` (``heard``), or goes to them (``said``); ``verb`` as in ``rule``."""
        hosts = ",".join(other.host for other in others)
        if heard:
            await self.rule(verb, "INPUT", "--source", hosts, "--jump", "DROP")
        if said:
            await self.rule(verb, "OUTPUT", "--destination", hosts, "--jump", "DROP")

    def close(self) -> None:
        os.close(self._descriptor)


class Network:
    """Places on one bridge, which see each other.

    here: the bridge is in the namespace of this process, which sees all of them, and must live :func:`apart`; else
    nobody sees them.
    """

    def __init__(self, prefix: str = "10.77.0", *, here: bool = True) -> None:
        self._prefix = prefix
        self._middle = None if here else _new_namespace()
        self.places: list[Place] = []

    async def build(self, count: int) -> None:
        await self._ip("link", "set", "lo", "up")
        await self._ip("link", "add", BRIDGE, "type", "bridge")
        await self._ip("address", "add", f"{self._prefix}.254/24", "dev", BRIDGE)
        await self._ip("link", "set", BRIDGE, "up")
        for number in range(1, count + 1):
            self.places.append(await self._place(number))

    async def _ip(self, *argv: str) -> None:
        """Where the bridge is."""
        await command("ip", *argv, network=self._middle)

    async def _place(self, number: int) -> Place:
        descriptor = _new_namespace()
        place = Place(descriptor, f"{self._prefix}.{number}")
        outside = f"port{number}"
        await self._ip("link", "add", outside, "type", "veth", "peer", "name", f"inside{number}")
        await self._ip("link", "set", outside, "master", BRIDGE, "up")
        # By the path of a process that stays: ip opens it itself.
        await self._ip("link", "set", f"inside{number}", "name", "eth0", "netns", place.path)
        await place.run("ip", "link", "set", "lo", "up")
        await place.run("ip", "address", "add", f"{place.host}/24", "dev", "eth0")
        await place.run("ip", "link", "set", "eth0", "up")
        return place

    def close(self) -> None:
        for place in self.places:
            place.close()
        if self._middle is not None:
            os.close(self._middle)


def _new_namespace() -> int:
    """A descriptor of a new, empty network namespace."""
    own = os.open(_OWN, os.O_RDONLY)
    try:
        _check(_libc.unshare(_CLONE_NEWNET), "unshare")
        try:
            return os.open(_OWN, os.O_RDONLY)
        finally:
            _set(own)
    finally:
        os.close(own)


def _set(descriptor: int) -> None:
    _check(_libc.setns(descriptor, _CLONE_NEWNET), "setns")


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


_libc = ctypes.CDLL(None, use_errno=True)
