"""The demo's processes: in sessions of their own, watched, and none left, however the demo ends."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from lepton_p2p.cli.demo import processes as under_test
from lepton_p2p.cli.demo.processes import DemoFailed, Nursery, Process, nursery

LISTENS = "print('peer 0123abcd listens on 127.0.0.1:4711, swarm lepton', flush=True)"
WAITS = "import signal; signal.pause()"


@pytest.fixture
def children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nursery]:
    """A nursery; modules for it to run lie in ``tmp_path`` (see :func:`module`)."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with nursery(tmp_path) as found:
        yield found


def module(folder: Path, name: str, *lines: str) -> str:
    (folder / f"{name}.py").write_text("\n".join(lines))
    return name


def gone(pid: int) -> bool:
    """Whether a process that is not our child has ended (it may be a zombie until somebody reaps it)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state in "ZX"


async def ended(pid: int) -> None:
    async with asyncio.timeout(20):
        while not gone(pid):  # noqa: ASYNC110 - nobody tells us of the end of a process that is not our child
            await asyncio.sleep(0.01)


async def test_the_first_line_tells_id_and_address(children: Nursery, tmp_path: Path) -> None:
    process = children.spawn("one", module(tmp_path, "one", LISTENS, WAITS), [])
    assert await process.listening(20) == ("0123abcd", "127.0.0.1:4711")
    assert process.running


async def test_one_that_ends_before_it_listens_is_an_error_with_its_last_words(
    children: Nursery, tmp_path: Path
) -> None:
    process = children.spawn("one", module(tmp_path, "one", "raise SystemExit('no such model')"), [])
    with pytest.raises(DemoFailed, match="one ended with 1:\nno such model"):
        await process.listening(20)


async def test_one_that_says_nothing_is_an_error(children: Nursery, tmp_path: Path) -> None:
    process = children.spawn("one", module(tmp_path, "one", WAITS), [])
    with pytest.raises(DemoFailed, match="one does not listen after 0 s"):
        await process.listening(0.05)


async def test_our_own_options_do_not_reach_the_children(
    children: Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEPTON_SWARM", "somebody-elses")
    show = "import os, sys; print([k for k in os.environ if k.startswith('LEPTON')], sys.argv[2:])"
    process = children.spawn("one", module(tmp_path, "one", show), ["--join", "x"])
    assert await asyncio.wait_for(process.exited(), 20) == 0
    assert process.last_words() == "[] ['--join', 'x']"


async def test_killing_one_kills_what_it_started(children: Nursery, tmp_path: Path) -> None:
    lines = (
        "import subprocess, sys",
        "p = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'])",
        "print(f'peer 00000000 listens on {p.pid}, swarm x', flush=True)",
        WAITS,
    )
    process = children.spawn("one", module(tmp_path, "one", *lines), [])
    _, grandchild = await process.listening(20)
    process.kill()
    assert not process.running
    await ended(int(grandchild))


async def test_stopping_asks_first_and_then_insists(
    children: Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "STOP_SECONDS", 0.5)
    polite = ("import signal, sys", "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))", LISTENS, WAITS)
    stubborn = ("import signal", "signal.signal(signal.SIGTERM, lambda *_: None)", LISTENS, f"while True: {WAITS}")
    first = children.spawn("polite", module(tmp_path, "polite", *polite), [])
    second = children.spawn("stubborn", module(tmp_path, "stubborn", *stubborn), [])
    await first.listening(20)
    await second.listening(20)
    await children.stop()
    assert first.popen.returncode == 0
    children.kill()
    assert second.popen.returncode == -signal.SIGKILL


def test_none_is_left_when_the_demo_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    started: list[Process] = []

    def fail() -> None:
        with nursery(tmp_path) as children:
            started.append(children.spawn("one", module(tmp_path, "one", WAITS), []))
            raise RuntimeError("the story breaks off")

    with pytest.raises(RuntimeError):
        fail()
    assert started[0].popen.returncode == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
async def test_a_peer_dies_with_the_demo_even_if_that_is_killed() -> None:
    parent = textwrap.dedent(
        """
        import os, subprocess, sys
        child = "from lepton_p2p.cli.demo.child import die_with; die_with({}); print('ready', flush=True);"
        child += "import signal; signal.pause()"
        p = subprocess.Popen([sys.executable, "-c", child.format(os.getpid())], stdout=subprocess.PIPE)
        p.stdout.readline()
        print(p.pid, flush=True)
        import signal; signal.pause()
        """
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", parent, stdout=subprocess.PIPE)
    assert process.stdout is not None
    child = int(await process.stdout.readline())
    assert not gone(child)
    process.kill()
    await process.wait()
    await ended(child)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_a_peer_whose_demo_died_before_it_looked_ends_at_once() -> None:
    code = "from lepton_p2p.cli.demo.child import die_with; die_with(1 << 30); print('still here')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "")
