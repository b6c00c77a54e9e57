"""Swarms of real ``lepton-peer`` processes: start, watch, kill and stop them; every wait has a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
from fork_server import Forked, ForkServer

from lepton_p2p.client import SwarmStatus, connect

DEADLINE = 45.0
"""Seconds for anything; many times what the slowest thing takes on a busy machine, so that it never decides a test."""
LISTENS = re.compile(r"^peer ([0-9a-f]{8}) listens on (\S+), swarm ")
HARMLESS = (None, 0, -signal.SIGKILL, -signal.SIGTERM)
"""Exit statuses of peers that run, have left, or were ended by the test."""
Line = dict[str, Any]


class PeerProcess:
    """One ``lepton-peer``: what it printed, what it wrote into its ledger, how it ended."""

    def __init__(self, process: Forked, name: str, stderr: Path, news: asyncio.Event) -> None:
        self.pid, self.name, self.stderr = process.pid, name, stderr
        self.id = self.address = ""
        self.lines: list[str] = []
        self.rounds: dict[int, Line] = {}
        """What the ledger says about each round."""
        self.last_round = 0
        self.past: list[dict[int, Line]] = []
        """Rounds of lineages that it has left for one that had come further; numbers begin at 1 in each."""
        self.may_yield = False
        """Whether that may happen to it."""
        self.void: list[Line] = []
        """Rounds that it was told to forget."""
        self.steps: list[Line] = []
        """The ledger's lines about steps without rounds."""
        self.served: list[Line] = []
        self.armed = False
        """Whether chunks count from now on (see ``ledger.install``)."""
        self.final: Line | None = None
        self._ended = process.ended
        self._ended.add_done_callback(lambda _: news.set())
        self._news = news
        self.readers: list[asyncio.Task[None]] = []

    @property
    def log(self) -> str:
        """What it has written to standard error."""
        return self.stderr.read_text(errors="replace")

    @property
    def status(self) -> int | None:
        """The exit status when it has ended: negative for the signal."""
        return self._ended.result() if self._ended.done() else None

    @property
    def running(self) -> bool:
        return self.status is None

    @property
    def established(self) -> bool:
        """Whether it held the swarm's state after its last round."""
        return bool(self.rounds) and self.rounds[self.last_round]["params"] != ""

    def signal(self, number: int) -> None:
        if self.running:
            os.kill(self.pid, number)

    def since(self, round: int) -> list[Line]:
        """The rounds after ``round``, in order."""
        return [self.rounds[number] for number in sorted(self.rounds) if number > round]

    def heard(self, line: bytes) -> None:
        """A line of standard output."""
        text = line.decode(errors="replace").rstrip("\n")
        self.lines.append(text)
        if found := LISTENS.match(text):
            self.id, self.address = found[1], found[2]

    def noted(self, line: bytes) -> None:
        """A line of the ledger."""
        entry = json.loads(line)
        match entry["kind"]:
            case "round":
                if self.may_yield and entry["round"] in self.rounds:
                    self.past.append(self.rounds)
                    self.rounds = {}
                assert entry["round"] not in self.rounds, f"{self.name} did round {entry['round']} twice"
                self.rounds[entry["round"]] = entry
                self.last_round = entry["round"]
            case "step":
                self.steps.append(entry)
                if self.rounds and entry["phase"] == "joining":
                    self._dropped()
            case "served":
                self.served.append(entry)
            case "armed":
                self.armed = True
            case "final":
                self.final = entry

    def _dropped(self) -> None:
        """The swarm went on without it: what it did last may be a round that the others made again, without it.

        All bytes of the result can be on their way to a peer that is stopped; it then takes them before it hears that
        it was left behind.
        """
        self.void.append(self.rounds.pop(self.last_round))
        self.last_round = max(self.rounds, default=0)

    async def read(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, take: Callable[[bytes], None]
    ) -> None:
        """Hand every line to ``take`` until the process closes its end; the last one may be cut by its death."""
        with contextlib.suppress(ConnectionError):
            while (line := await reader.readline()).endswith(b"\n"):
                take(line)
                self._news.set()
        writer.close()

    @property
    def over(self) -> bool:
        """Whether it has ended, and all that it told was heard."""
        return not self.running and all(reader.done() and reader.exception() is None for reader in self.readers)


@dataclass(frozen=True)
class Finished:
    """How a command ended: exit status and what it printed."""

    status: int
    out: str
    errors: str

    @property
    def error_line(self) -> str:
        """The one line that an error is told in."""
        lines = self.errors.splitlines()
        assert len(lines) == 1, f"not one line: {self.errors!r}"
        assert lines[0].startswith("lepton-peer: ")
        return lines[0]


class Launcher:
    """Starts ``lepton-peer`` processes from one fork server, and reaps all of them."""

    def __init__(self, folder: Path, process: Callable[..., PeerProcess] = PeerProcess) -> None:
        """``process``: what is made for each."""
        self._folder, self._process = folder, process
        self._numbers = itertools.count(1)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("LEPTON_")}
        environment |= {"PYTHONUNBUFFERED": "1"}
        self._server = ForkServer(Path(__file__).with_name("zygote.py"), environment, deadline=DEADLINE)
        self._processes: list[PeerProcess] = []
        self.news = asyncio.Event()
        """Set whenever any process said something or ended; whoever waits for it clears it."""

    async def __aenter__(self) -> Self:
        await self._server.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._server.__aexit__(kind, error, trace)
        async with asyncio.timeout(DEADLINE):
            for process in self._processes:
                await asyncio.gather(*process.readers)

    async def start(
        self,
        *argv: str,
        hooks: Mapping[str, int] | None = None,
        env: Mapping[str, str] | None = None,
        network: str = "",
    ) -> PeerProcess:
        """Run ``lepton-peer argv...``; for ``hooks`` see ``ledger.install``, for ``network`` see ``zygote``."""
        name = f"peer{next(self._numbers)}"
        stderr = self._folder / f"{name}.log"
        stderr.touch()
        pairs = [socket.socketpair() for _ in range(2)]
        more = {"env": dict(env or {}), "hooks": dict(hooks or {}), "network": network}
        request = {"argv": argv, "stderr": str(stderr), **more}
        forked = await self._server.fork(json.dumps(request).encode(), [theirs for _, theirs in pairs])
        process = self._process(forked, name, stderr, self.news)
        # Those that are over are their test's alone, for what they have told may be much.
        self._processes = [*(one for one in self._processes if not one.over), process]
        for (ours, _), take in zip(pairs, (process.heard, process.noted), strict=True):
            reader, writer = await asyncio.open_connection(sock=ours, limit=1 << 22)
            process.readers.append(asyncio.create_task(process.read(reader, writer, take)))
        return process

    @property
    def running(self) -> list[PeerProcess]:
        """All processes that have not ended."""
        return [process for process in self._processes if process.running]


class TrainingSwarm:
    """The peers of one test."""

    def __init__(self, launcher: Launcher, folder: Path) -> None:
        self.folder = folder
        self.peers: list[PeerProcess] = []
        """All that were ever started."""
        self._launcher = launcher

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        started, self.peers = self.peers, []
        for peer in started:
            peer.signal(signal.SIGKILL)
        await self.until("all are dead", lambda: not any(peer.running for peer in started))
        self.peers = started

    @property
    def living(self) -> list[PeerProcess]:
        return [peer for peer in self.peers if peer.running]

    async def begin(
        self,
        *argv: str,
        hooks: Mapping[str, int] | None = None,
        env: Mapping[str, str] | None = None,
        network: str = "",
    ) -> PeerProcess:
        """Start ``lepton-peer`` on a free port and do not wait for it."""
        usual = ("--preset", "local", "--listen", "127.0.0.1:0", "--log-level", "info")
        peer = await self._launcher.start(*usual, *argv, hooks=hooks, env=env, network=network)
        self.peers.append(peer)
        return peer

    async def start(
        self,
        *argv: str,
        hooks: Mapping[str, int] | None = None,
        env: Mapping[str, str] | None = None,
        network: str = "",
    ) -> PeerProcess:
        """Start ``lepton-peer`` on a free port and wait until it listens."""
        peer = await self.begin(*argv, hooks=hooks, env=env, network=network)
        await self.until(f"{peer.name} listens", lambda: bool(peer.address))
        return peer

    async def command(self, *argv: str, env: Mapping[str, str] | None = None) -> Finished:
        """Run ``lepton-peer argv...`` to its end."""
        process = await self._launcher.start(*argv, env=env)
        await self.until(f"{argv} has ended", lambda: not process.running)
        await asyncio.gather(*process.readers)
        assert process.status is not None
        return Finished(process.status, "\n".join(process.lines), process.log)

    async def until(self, what: str, holds: Callable[[], bool], *, patience: float = DEADLINE) -> None:
        """Wait for ``holds``, looked at whenever a process said something; a failure tells everybody's story."""
        news = self._launcher.news
        try:
            async with asyncio.timeout(patience):
                while not holds():
                    failed = [peer.name for peer in self.peers if peer.status not in HARMLESS]
                    assert not failed, f"{failed} failed before {what}\n{self.story()}"
                    news.clear()
                    await news.wait()
        except TimeoutError:
            raise AssertionError(f"waited in vain until {what}\n{self.story()}") from None

    async def trained(self, peers: Sequence[PeerProcess], more: int) -> None:
        """Until each of ``peers`` holds the state and has done ``more`` further rounds."""
        goals = [(peer, peer.last_round + more) for peer in peers]
        await self.until(
            f"{[peer.name for peer in peers]} have done {more} more rounds",
            lambda: all(peer.established and peer.last_round >= goal for peer, goal in goals),
        )

    async def together(self, peers: Sequence[PeerProcess]) -> dict[str, Any]:
        """Until all of ``peers`` contributed to one round; what one of them says of that."""
        found: list[dict[str, Any]] = []

        def met() -> bool:
            last = max((peer.last_round for peer in peers), default=0)
            entry = next((peer.rounds[last] for peer in peers if last in peer.rounds), None)
            if entry and {peer.id for peer in peers} <= {peer[:8] for peer in entry["shared"]["contributors"]}:
                found.append(entry)
            return bool(found)

        await self.until(f"{[peer.name for peer in peers]} train together", met)
        return found[0]

    async def kill(self, peer: PeerProcess) -> None:
        """SIGKILL, and wait for the end."""
        peer.signal(signal.SIGKILL)
        await self.until(f"{peer.name} is dead", lambda: not peer.running)
        assert peer.status == -signal.SIGKILL, f"{peer.name} ended with {peer.status}\n{self.story()}"

    async def stop(self, peer: PeerProcess, number: int = signal.SIGTERM) -> None:
        """Ask it to stop; it leaves in good order."""
        peer.signal(number)
        await self.until(f"{peer.name} has left", lambda: not peer.running)
        assert peer.status == 0, f"{peer.name} ended with {peer.status}\n{self.story()}"

    async def done(self, peers: Sequence[PeerProcess]) -> None:
        """Until the training of all ``peers`` is complete; all have the same parameters then."""
        await self.until(f"{[peer.name for peer in peers]} are done", lambda: all(peer.final for peer in peers))
        digests = {peer.final["params"] for peer in peers if peer.final}
        assert len(digests) == 1, f"{digests}\n{self.story()}"

    def story(self) -> str:
        """What everybody said last, for the message of a test that failed."""
        parts = []
        for peer in self.peers:
            state = "runs" if peer.running else f"ended with {peer.status}"
            parts.append(f"--- {peer.name} {peer.id} pid {peer.pid} {state}, round {peer.last_round}, {peer.address}")
            parts += [*peer.lines[-2:], peer.log[-2500:]]
        return "\n".join(parts)

    def bugs(self) -> list[str]:
        """Lines logged as errors and tracebacks: there must be none, whatever is done to the processes."""
        return [
            f"{peer.name}: {line}"
            for peer in self.peers
            for line in peer.log.splitlines()
            if "[error" in line or "Traceback" in line
        ]


def descriptors(peer: PeerProcess, fellows: Sequence[PeerProcess]) -> int:
    """Open file descriptors, less connections with ``fellows``: those are opened when needed."""
    theirs = {port for fellow in fellows if fellow is not peer for port, _ in _connections(fellow)}
    return psutil.Process(peer.pid).num_fds() - sum(remote in theirs for _, remote in _connections(peer))


def _connections(peer: PeerProcess) -> list[tuple[int, int]]:
    """Local and remote ports of established connections."""
    found = psutil.Process(peer.pid).net_connections("tcp")
    return [(one.laddr.port, one.raddr.port) for one in found if one.laddr and one.raddr]


def resident(peer: PeerProcess) -> int:
    """Bytes of memory."""
    return int(psutil.Process(peer.pid).memory_info().rss)


def threads(peer: PeerProcess) -> int:
    return psutil.Process(peer.pid).num_threads()


async def status_of(peer: PeerProcess) -> SwarmStatus:
    """What ``lepton-peer status`` would show."""
    async with connect(peer.address, timeout=DEADLINE) as client:
        return await client.status()
