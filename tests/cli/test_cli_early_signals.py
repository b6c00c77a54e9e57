"""A signal while the command line is still importing: no traceback, and the exit code that was promised."""

from __future__ import annotations

import subprocess
import sys

import pytest

SIGNALLED_WHILE_IMPORTING = """
import os, signal, sys

class Interrupter:
    def find_spec(self, name, path=None, target=None):
        if name == "lepton_p2p.cli.app":
            os.kill(os.getpid(), signal.{number})

sys.meta_path.insert(0, Interrupter())
sys.argv = ["lepton-peer", *{arguments}]
from lepton_p2p.cli import main
main()
"""


@pytest.mark.parametrize(
    ("number", "arguments", "status"),
    [
        ("SIGINT", [], 0),
        ("SIGTERM", ["--join", "127.0.0.1:1"], 0),
        ("SIGINT", ["status", "127.0.0.1:1"], 130),
        ("SIGTERM", ["status", "127.0.0.1:1"], 143),
    ],
)
def test_a_signal_before_anything_runs_ends_the_process_in_silence(
    number: str, arguments: list[str], status: int
) -> None:
    code = SIGNALLED_WHILE_IMPORTING.format(number=number, arguments=arguments)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (status, "", "")
