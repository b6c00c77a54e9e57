"""A state directory belongs to one peer at a time, whatever becomes of that."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lepton_p2p.errors import ConfigError
from lepton_p2p.runtime.state_lock import locked

HOLD = """
import os, sys, time
from pathlib import Path
from lepton_p2p.runtime.state_lock import locked
with locked(Path(sys.argv[1])):
    if os.fork():
        print("held", flush=True)
    sys.stdin.read()
"""


def test_nothing_is_held_where_there_is_no_directory() -> None:
    with locked(None), locked(None):
        pass


def test_a_second_peer_of_the_same_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "for it"
    with locked(folder), pytest.raises(ConfigError, match="used by another peer"), locked(folder / ".." / "for it"):
        pass
    with locked(folder):
        pass


def test_another_process_holds_it_until_it_is_killed_although_a_child_of_it_lives_on(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match="used by another peer"), locked(tmp_path):
            pass
        os.kill(process.pid, signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with locked(tmp_path):
            pass


def test_what_cannot_be_made_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be used") as caught, locked(tmp_path / "file" / "folder"):
        pass
    assert "\n" not in str(caught.value)
