"""What ``lepton-peer`` processes are forked from (see ``fork_server.py``); started as ``python zygote.py FD``.

A request is JSON, ``{"argv", "env", "stderr", "hooks", "network"}``, with two sockets: the standard output of the new
process, and its ledger (see ``ledger.py``).  ``network``: path of the network namespace to live in, or nothing.

The child runs what the console script runs and ends as a Python program ends: threads
that do not end keep it alive.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fork_server import serve
from network_namespaces import enter


def _import_all() -> None:
    import ledger  # noqa: F401
    import safetensors.torch  # noqa: F401
    import uvloop  # noqa: F401

    from lepton_p2p.cli import app, peer  # noqa: F401
    from lepton_p2p.runtime.warm_up import warm_up

    warm_up()


def _become_peer(data: bytes, out: int, ledger_end: int) -> None:
    """The child: streams and environment as a shell would hand them over, then the command line."""
    request = json.loads(data)
    if request["network"]:
        enter(request["network"])
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
    _import_all()
    serve(socket.socket(fileno=int(sys.argv[1])), _become_peer, sockets=2)
