"""The command line: ``lepton-peer`` and ``python -m lepton_p2p``."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys

from lepton_p2p.errors import LeptonError


def main() -> None:
    """Run the command line and exit.

    Whatever the library raises on purpose becomes one line on standard error and the exit code of its class; anything
    else is a bug and keeps its traceback.
    """
    # Nothing is running yet that would have to be announced.  Without a handler, the first process of a container
    # would not hear SIGTERM at all while seconds of imports go by, and Ctrl+C would end them with a traceback.
    runs_a_peer = len(sys.argv) < 2 or sys.argv[1].startswith("-")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: os._exit(0 if runs_a_peer else 128 + number))
    from lepton_p2p.cli.app import app

    atexit.register(_no_last_collection)
    try:
        app(prog_name="lepton-peer")
    except LeptonError as error:
        print(f"lepton-peer: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _no_last_collection() -> None:
    """Let the interpreter end without searching hundreds of thousands of torch's objects for garbage: that takes a
    second of the three within which a peer that was told to stop promises to be gone.  All that matters is closed.
    """
    gc.disable()
    gc.freeze()
