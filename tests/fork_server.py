"""Forks processes from one that has imported everything: each costs milliseconds instead of seconds.

Both ends are here.  A script calls :func:`serve` and says what a child becomes; a test starts that script with
:class:`ForkServer` and asks for children.  Between them is a Unix SOCK_SEQPACKET pair: a request is some bytes with
sockets attached, the answer is ``{"pid"}``, and ``{"pid", "status"}`` follows when that process has ended.  When the
pair is closed, the server kills and reaps what is left; if it dies, the kernel kills its children.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

_PR_SET_PDEATHSIG = 1
_MESSAGE = 1 << 16


def serve(control: socket.socket, become: Callable[..., object], *, sockets: int) -> None:
    """Fork for each request on ``control``; the child calls ``become(request, *descriptors)`` and returns from here.

    ``sockets``: how many come with a request.  Import all that children need before; gRPC and torch must not have
    started anything in a process that forks.
    """
    assert len(os.listdir("/proc/self/task")) == 1, "a process with threads must not fork"
    wake, waker = socket.socketpair()
    waker.setblocking(False)
    signal.set_wakeup_fd(waker.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    selector = selectors.DefaultSelector()
    selector.register(control, selectors.EVENT_READ)
    selector.register(wake, selectors.EVENT_READ)
    control.send(b"{}")
    children: set[int] = set()
    while True:
        ready = {key.fileobj for key, _ in selector.select()}
        if wake in ready:
            wake.recv(4096)
            _reap(control, children)
        if control in ready:
            request, descriptors, _, _ = socket.recv_fds(control, _MESSAGE, sockets)
            if not request:
                break
            pid = os.fork()
            if pid == 0:
                selector.close()
                for one in (wake, waker, control):
                    one.close()
                _stand_alone()
                become(request, *descriptors)
                return
            children.add(pid)
            for descriptor in descriptors:
                os.close(descriptor)
            control.send(json.dumps({"pid": pid}).encode())
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _stand_alone() -> None:
    """The child: signals as a shell would hand them over, a process group of its own, death with the server."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setpgid(0, 0)


def _reap(control: socket.socket, children: set[int]) -> None:
    for pid in tuple(children):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            children.discard(pid)
            control.send(json.dumps({"pid": pid, "status": os.waitstatus_to_exitcode(status)}).encode())


@dataclass(frozen=True, slots=True)
class Forked:
    """A child; ``ended`` is its exit status once it has ended, negative for a signal."""

    pid: int
    ended: asyncio.Future[int]


class ForkServer:
    """The test's end: runs ``script`` (as ``python SCRIPT FD``) in ``environment`` and asks it for children.

    ``deadline``: seconds for the script's imports, and for every answer.
    """

    def __init__(self, script: Path, environment: Mapping[str, str], *, deadline: float) -> None:
        self._script, self._environment, self._deadline = script, environment, deadline
        self._forked: asyncio.Queue[Forked] = asyncio.Queue()
        self._running: dict[int, Forked] = {}

    async def __aenter__(self) -> Self:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(self._script),
            str(theirs.fileno()),
            pass_fds=(theirs.fileno(),),
            # As many processes as cores, or more, compute at once: more threads each only get in each other's way.
            env={**self._environment, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        theirs.close()
        self._control.setblocking(False)
        async with asyncio.timeout(self._deadline):
            assert await asyncio.get_running_loop().sock_recv(self._control, _MESSAGE), "the fork server did not start"
        self._listening = asyncio.create_task(self._listen())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)
        self._control.close()
        async with asyncio.timeout(self._deadline):
            await self._process.wait()

    async def fork(self, request: bytes, sockets: Sequence[socket.socket]) -> Forked:
        """A child for ``request`` that has ``sockets``, which are closed here."""
        socket.send_fds(self._control, [request], [one.fileno() for one in sockets])
        for one in sockets:
            one.close()
        async with asyncio.timeout(self._deadline):
            return await self._forked.get()

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(self._control, _MESSAGE):
            message = json.loads(data)
            if "status" in message:
                self._running.pop(message["pid"]).ended.set_result(message["status"])
            else:
                forked = self._running[message["pid"]] = Forked(message["pid"], loop.create_future())
                self._forked.put_nowait(forked)
