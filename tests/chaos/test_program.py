"""``scripts/chaos.py`` as a user meets it: figures, exit codes, and nothing left behind, however it ends."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from network_namespaces import Seclusion, impossible, seclusion

pytestmark = pytest.mark.timeout(120)
DEADLINE = 90.0
PROGRAM = (sys.executable, str(Path(__file__).parents[2] / "scripts" / "chaos.py"))
needs_namespaces = pytest.mark.skipif(bool(why := impossible()), reason=f"no network namespaces: {why}")


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PROGRAM, *argv], capture_output=True, text=True, timeout=DEADLINE, check=False)


@asynccontextmanager
async def while_it_trains(
    place: Seclusion, *argv: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, list[psutil.Process]]]:
    """The program when its peers train, and all processes that it has then; at the end these must be gone."""
    program = await asyncio.create_subprocess_exec(*place.argv(*PROGRAM, *argv), stdout=asyncio.subprocess.PIPE)
    assert program.stdout is not None
    try:
        async with asyncio.timeout(DEADLINE):
            while not (line := await program.stdout.readline()).endswith(b"peers train\n"):
                assert line, "it ended"
        children = psutil.Process(program.pid).children(recursive=True)
        assert len(children) > 3
        yield program, children
        _, left = await asyncio.to_thread(psutil.wait_procs, children, timeout=30)
        assert not left, f"still there: {left}"
    finally:
        if program.returncode is None:
            program.kill()
        await program.communicate()


def test_a_run_says_what_it_has_come_to(tmp_path: Path) -> None:
    ended = run("--loopback", "--peers", "3", "--faults", "kill,stop", "--seed", "5", "--json", str(tmp_path / "found"))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "left out are power, disk" in ended.stdout, "it says what cannot be had"
    found = json.loads((tmp_path / "found").read_text())
    assert found["rounds"]["done"] > 20
    assert (found["rounds"]["lost"], found["violation"]) == (0, "")
    assert found["samples"]["passes"] >= 1
    assert found["kinds"] == {"kill": 1, "stop": 1}
    assert found["recovery"]["count"] == 2
    assert f"| rounds done | {found['rounds']['done']} |" in ended.stdout


def test_a_broken_promise_is_an_exit_code_with_the_seed_and_the_logs(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    three = ("--loopback", "--peers", "3", "--seed", "5")
    ended = run(*three, "--faults", "kill", "--bound", "0.001", "--logs", str(logs))
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "VIOLATION: the swarm goes on: waited in vain until all contribute to one round" in ended.stdout
    assert "seed 5" in ended.stdout
    assert str(logs) in ended.stdout
    assert "peer1" in (logs / "violation.txt").read_text()


def test_a_kind_that_does_not_exist_is_refused() -> None:
    ended = run("--faults", "kill,earthquake")
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith("chaos.py: error: unknown: earthquake; kinds are kill, kill-two")


@needs_namespaces
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=lambda number: number.name)
async def test_nothing_is_left_of_a_run_that_is_ended(number: signal.Signals, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    with seclusion() as place:
        before = place.seen()
        async with while_it_trains(place, "--peers", "3", "--minutes", "5", "--logs", str(logs)) as (program, _):
            program.send_signal(number)
            status = await program.wait()
        assert place.seen() == before
    assert status == (130 if number == signal.SIGINT else -signal.SIGKILL)
