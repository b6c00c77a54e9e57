"""The command line: ``lepton-peer`` and ``python -m lepton_p2p``."""

from __future__ import annotations

import sys

from lepton_p2p.errors import LeptonError


def main() -> None:
    """Run the command line and exit.

    Whatever the library raises on purpose becomes one line on standard error and the exit code of its class; anything
    else is a bug and keeps its traceback.
    """
    from lepton_p2p.cli.app import app

    try:
        app(prog_name="lepton-peer")
    except LeptonError as error:
        print(f"lepton-peer: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
