"""The processes of the demo: started in sessions of their own, watched, and gone when the demo is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_LISTENS = re.compile(r"^peer ([0-9a-f]{8}) listens on (\S+), swarm ", re.MULTILINE)
POLL_SECONDS = 0.02
STOP_SECONDS = 3.0
"""From SIGTERM to SIGKILL: what ``lepton-peer`` promises to need."""


class DemoFailed(Exception):
    """The story could not be told to its end; the message says why in a line, and may add a process's last words."""


@dataclass(frozen=True, slots=True)
class Process:
    """A child, with everything that it writes in the file ``log``."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def running(self) -> bool:
        return self.popen.poll() is None

    def last_words(self, lines: int = 8) -> str:
        """The end of what it wrote."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def kill(self) -> None:
        """SIGKILL, to it and whatever it started; waits until it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()

    async def exited(self) -> int:
        """Its exit code, when it ends."""
        return await asyncio.to_thread(self.popen.wait)

    async def listening(self, timeout: float) -> tuple[str, str]:
        """Wait for its first line: the first digits of its id, and its address; :class:`DemoFailed` if it ends."""
        try:
            async with asyncio.timeout(timeout):
                while not (found := _LISTENS.search(self.log.read_text(errors="replace"))):
                    if not self.running:
                        raise DemoFailed(f"{self.name} ended with {self.popen.returncode}:\n{self.last_words()}")
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise DemoFailed(f"{self.name} does not listen after {timeout:.0f} s:\n{self.last_words()}") from None
        return found[1], found[2]


class Nursery:
    """Starts processes, and leaves none behind."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[Process] = []

    def spawn(self, name: str, module: str, arguments: Sequence[str]) -> Process:
        """Run ``python -m module PID arguments...`` with one thread for torch and none of our own LEPTON_* options."""
        environment = {key: value for key, value in os.environ.items() if not key.upper().startswith("LEPTON_")}
        # As many processes as cores, or more, compute at once: more threads each only get in each other's way.
        environment |= {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        log = self._folder / f"{name}.log"
        with log.open("wb") as out:
            popen = subprocess.Popen(
                [sys.executable, "-m", module, str(os.getpid()), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        process = Process(name, popen, log)
        self._processes.append(process)
        return process

    def spawn_peer(self, name: str, *arguments: str) -> Process:
        """Run ``lepton-peer arguments...``."""
        return self.spawn(name, "lepton_p2p.cli.demo.child", arguments)

    async def stop(self) -> None:
        """SIGTERM to all that run, time to leave in good order, SIGKILL to the rest."""
        alive = [process for process in self._processes if process.running]
        for process in alive:
            process.popen.send_signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                for process in alive:
                    await process.exited()

    def kill(self) -> None:
        """SIGKILL to whatever is left."""
        for process in self._processes:
            process.kill()


@contextlib.contextmanager
def nursery(folder: Path) -> Iterator[Nursery]:
    """A :class:`Nursery` whose processes are dead at the end, whatever happens in between."""
    found = Nursery(folder)
    try:
        yield found
    finally:
        found.kill()
