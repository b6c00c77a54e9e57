"""Forks ``lepton-peer`` processes from a process that has imported everything: milliseconds instead of seconds each.

Started as ``python fork_server.py FD``; FD is one end of a Unix SOCK_SEQPACKET pair.  A request is JSON, ``{"argv",
"env", "stderr", "hooks"}``, with two sockets attached: the standard output of the new process, and its ledger (see
``ledger.py``).  The answer is ``{"pid"}``; ``{"pid", "status"}`` follows when that process has ended.  The child runs
what the console script runs and ends as a Python program ends: threads that do not end keep it alive.

When the pair is closed, this process kills and reaps what is left; if it dies, the kernel kills its children.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import selectors
import signal
import socket
import sys
from typing import Any

_PR_SET_PDEATHSIG = 1


def main(control: socket.socket) -> None:
    _import_all()
    # gRPC and torch must not have started anything in a process that forks.
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
            data, descriptors, _, _ = socket.recv_fds(control, 1 << 16, 2)
            if not data:
                break
            pid = os.fork()
            if pid == 0:
                selector.close()
                for one in (wake, waker, control):
                    one.close()
                _become_peer(json.loads(data), *descriptors)
                return
            children.add(pid)
            for descriptor in descriptors:
                os.close(descriptor)
            control.send(json.dumps({"pid": pid}).encode())
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _import_all() -> None:
    import ledger  # noqa: F401
    import safetensors.torch  # noqa: F401
    import uvloop  # noqa: F401

    from lepton_p2p.cli import app, peer  # noqa: F401
    from lepton_p2p.runtime.warm_up import warm_up

    warm_up()


def _reap(control: socket.socket, children: set[int]) -> None:
    for pid in tuple(children):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            children.discard(pid)
            control.send(json.dumps({"pid": pid, "status": os.waitstatus_to_exitcode(status)}).encode())


def _become_peer(request: dict[str, Any], out: int, ledger_end: int) -> None:
    """The child: streams, signals and environment as a shell would hand them over, then the command line."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setpgid(0, 0)
    os.dup2(out, 1)
    os.close(out)
    errors = os.open(request["stderr"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(errors, 2)
    os.close(errors)
    faulthandler.register(signal.SIGUSR1)  # for whoever wants to know where a process hangs
    os.environ.update(request["env"])
    sys.argv = ["lepton-peer", *request["argv"]]

    import ledger

    from lepton_p2p.cli import main as lepton_peer

    ledger.install(socket.socket(fileno=ledger_end), request["hooks"])
    lepton_peer()


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
