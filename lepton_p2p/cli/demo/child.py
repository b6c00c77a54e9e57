"""What a process of the demo runs: ``lepton-peer`` that dies with the demo.

Usage: ``python -m lepton_p2p.cli.demo.child PARENT_PID ARGUMENTS...``
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Ask the kernel to kill this process when ``parent`` dies, however that dies; where it cannot, do nothing.

    It is done here and not between fork and exec in the parent: the parent runs gRPC's threads, and Python code in a
    forked copy of such a process may dead-lock.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the kernel knew
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    die_with(int(sys.argv[1]))
    sys.argv = ["lepton-peer", *sys.argv[2:]]
    from lepton_p2p.cli import main as lepton_peer

    lepton_peer()


if __name__ == "__main__":
    main()
