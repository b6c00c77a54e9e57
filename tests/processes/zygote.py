"""Forks workers from a process that has imported everything: a new peer costs milliseconds instead of seconds.

Started as ``python zygote.py FD``; FD is one end of a Unix SOCK_SEQPACKET pair.  Each request is the name of a log
file, with the worker's end of its channel attached; the answer is ``{"pid"}``, and ``{"pid", "status"}`` follows when
that process has ended.  It ends, and takes its children along, when the pair is closed.  grpc must not have started
anything in a process that forks: importing it does not, and this process does nothing else.
"""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import signal
import socket
import sys
from pathlib import Path
from typing import NoReturn

_PR_SET_PDEATHSIG = 1


def main(control: socket.socket) -> None:
    import worker  # noqa: F401 - so that children have it

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
            data, descriptors, _, _ = socket.recv_fds(control, 4096, 1)
            if not data:
                break
            channel = socket.socket(fileno=descriptors[0])
            pid = os.fork()
            if pid == 0:
                selector.close()
                for one in (wake, waker, control):
                    one.close()
                _child(channel, data.decode())
            children.add(pid)
            channel.close()
            control.send(json.dumps({"pid": pid}).encode())
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    os._exit(0)


def _reap(control: socket.socket, children: set[int]) -> None:
    for pid in tuple(children):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            children.discard(pid)
            control.send(json.dumps({"pid": pid, "status": os.waitstatus_to_exitcode(status)}).encode())


def _child(channel: socket.socket, log: str) -> NoReturn:
    """Become a worker; leaves by ``_exit``, for what the parent registered to run at exit is not ours."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.setpgid(0, 0)

        from worker import main as work

        work(channel, log)
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main(socket.socket(fileno=int(sys.argv[1])))
