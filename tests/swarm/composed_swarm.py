"""A swarm of containers as the tests see it: docker-compose starts it, `lepton-peer status --watch` tells how it goes.

Nothing here polls or sleeps: each container has one process that prints its status whenever it looks, the engine
prints what happens to containers, and waiting means waiting for a line that makes a condition true.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lepton_p2p.errors import SwarmUnreachable

ROOT = Path(__file__).resolve().parents[2]
COMPOSE_FILES = ("docker-compose.yml", "tests/swarm/docker-compose.test.yml")
PACED = "tests/swarm/docker-compose.paced.yml"
LOOK_SECONDS = 0.2


class CommandFailed(AssertionError):
    """docker or docker-compose said no; the message holds what it said."""


def command(*words: str, timeout: float = 300, environment: Mapping[str, str] | None = None) -> str:
    """Run a program in the repository's folder and return what it prints; :class:`CommandFailed` if it fails."""
    variables = {**os.environ, **(environment or {})}
    done = subprocess.run(words, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode:
        raise CommandFailed(f"{' '.join(words)} exited with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


def _ignored(code: int, last: str) -> None:
    """The end of a program that nobody waits for."""


class Lines:
    """A program whose lines are handed to ``on_line`` in a thread; ``on_end`` gets its exit code and last line."""

    def __init__(
        self,
        words: list[str],
        on_line: Callable[[str], None],
        on_end: Callable[[int, str], None] = lambda code, last: None,
    ) -> None:
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self._on_line = on_line
        self._on_end = on_end
        self._thread = threading.Thread(target=self._read, name=f"lines of {words[-1]}", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        last = ""
        for line in self._process.stdout:
            last = line.strip()
            self._on_line(last)
        self._on_end(self._process.wait(), last)

    def close(self) -> None:
        """End the program and its thread."""
        self._process.kill()
        self._thread.join(timeout=10)


@dataclass
class Peer:
    """One container and the newest status that its peer gave."""

    container: str
    status: dict[str, Any] = field(default_factory=dict)
    healthy: bool = False
    ended: str | None = None
    """Why there will be no more news, if so."""
    watch: Lines | None = None

    @property
    def id(self) -> str:
        return str(self.status.get("peer", ""))

    @property
    def phase(self) -> str:
        return str(self.status.get("phase", ""))

    @property
    def round(self) -> int:
        return int(self.status.get("round", 0))

    @property
    def epoch(self) -> int:
        return int(self.status.get("epoch", 0))

    @property
    def digest(self) -> str:
        return str(self.status.get("params_digest", ""))

    @property
    def epoch_members(self) -> frozenset[str]:
        """Ids of the peers that, as this one says, take part in its epoch."""
        return frozenset(member["peer"] for member in self.status.get("members", ()) if member["in_epoch"])

    def __str__(self) -> str:
        shown = {key: value for key, value in self.status.items() if key not in ("members", "metrics")}
        epoch = sorted(peer[:8] for peer in self.epoch_members)
        return f"{self.container[:12]} healthy={self.healthy} ended={self.ended} in epoch={epoch} {shown}"


class ComposedSwarm:
    """The containers of one docker-compose project, from `up` to `down`; ``more``: further compose files."""

    def __init__(self, project: str, image: str, *more: str) -> None:
        self._project = project
        self._files = (*COMPOSE_FILES, *more)
        self._environment = {"SWARM_IMAGE": image, "SWARM_JOB": "/job.toml"}
        self.token = ""
        """What newcomers join with, where the swarm has credentials."""
        self._changed = threading.Condition()
        self._peers: dict[str, Peer] = {}
        labels = (f"label=com.docker.compose.project={project}", "label=com.docker.compose.oneoff=False")
        wanted = [word for one in (*labels, "event=health_status") for word in ("--filter", one)]
        # From now on, also what happens before this program has connected.
        since = ["--since", str(int(time.time()))]
        self._events = Lines(["docker", "events", *since, *wanted, "--format", "{{json .}}"], self._on_health)

    # What one does to it.

    def up(self, peers: int) -> list[Peer]:
        """`docker-compose up --scale peer=...`; returns the containers that are new, once each tells its status."""
        self.compose("up", "-d", "--no-build", "--scale", f"peer={peers}")
        new = []
        for container in self.compose("ps", "-q").split():
            peer = self._peers.setdefault(container, Peer(container))
            if peer.watch is None or peer.ended is not None:
                peer.ended = None
                new.append(peer)
        self.wait_until(lambda: all(peer.healthy for peer in new), "new containers are healthy", among=new)
        for peer in new:
            self._watch(peer)
        self.wait_until(lambda: all(peer.status for peer in new), "new peers tell their status", among=new)
        return new

    def run(self, *argv: str) -> str:
        """`docker-compose run`: a command of lepton-peer in a container of its own, with the seed's volumes."""
        return self.compose("run", "--rm", "--no-deps", "-T", "seed", *argv)

    def stranger(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """A command of lepton-peer in a container that is on the network and knows nothing."""
        network, image = f"{self._project}_swarm", self._environment["SWARM_IMAGE"]
        words = ["docker", "run", "--rm", "--network", network, image, *argv]
        return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)

    def kill(self, peer: Peer) -> None:
        """`docker kill`: SIGKILL, no goodbye."""
        self._expect_end(peer)
        command("docker", "kill", peer.container)

    def stop(self, peer: Peer) -> int:
        """`docker stop`: SIGTERM, and SIGKILL (exit code 137) if that does not end it; returns the exit code."""
        self._expect_end(peer)
        command("docker", "stop", "--time", "10", peer.container)
        return int(command("docker", "inspect", "--format", "{{.State.ExitCode}}", peer.container))

    @contextmanager
    def partitioned(self, peer: Peer) -> Iterator[None]:
        """Cut one container off the network for the block."""
        network = f"{self._project}_swarm"
        command("docker", "network", "disconnect", network, peer.container)
        try:
            yield
        finally:
            command("docker", "network", "connect", network, peer.container)

    @contextmanager
    def paused(self, peer: Peer) -> Iterator[None]:
        """`docker pause`: every process of one container stands still for the block."""
        command("docker", "pause", peer.container)
        try:
            yield
        finally:
            command("docker", "unpause", peer.container)

    def hurry(self) -> None:
        """Where the training is paced, its rest takes no longer than it must (see ``train.py``)."""
        for peer in self.living:
            command("docker", "exec", peer.container, "sh", "-c", 'touch "$HURRY"')

    def compose(self, *words: str) -> str:
        """Run docker-compose for this project."""
        files = [word for name in self._files for word in ("-f", name)]
        return command(
            "docker-compose",
            "-p",
            self._project,
            *files,
            *words,
            environment={**self._environment, "LEPTON_TOKEN": self.token},
        )

    def down(self) -> None:
        """Remove containers and network, and end everything that was started to watch them."""
        try:
            self.compose("down", "--volumes", "--remove-orphans", "--timeout", "0")
        finally:
            for peer in self._peers.values():
                self._expect_end(peer)
            self._events.close()

    # What one sees of it.

    @property
    def seed(self) -> Peer:
        return self._peers[self.compose("ps", "-q", "seed")]

    @property
    def living(self) -> list[Peer]:
        return [peer for peer in self._peers.values() if peer.ended is None]

    def logs(self) -> str:
        """The last lines of every container."""
        return self.compose("logs", "--no-color", "--tail", "60")

    def wait_until(
        self, holds: Callable[[], bool], what: str, *, timeout: float = 120, among: list[Peer] | None = None
    ) -> None:
        """Wait until ``holds()``, looked at with every news; AssertionError with all statuses if it does not."""
        peers = among if among is not None else self.living
        with self._changed:
            self._changed.wait_for(lambda: holds() or any(peer.ended for peer in peers), timeout)
            if not holds():
                shown = "\n".join(f"  {peer}" for peer in self._peers.values())
                raise AssertionError(f"waited {timeout:.0f} s at most, but not: {what}\n{shown}")

    def wait_for_one_epoch(self, peers: list[Peer]) -> None:
        """Wait until each of ``peers`` trains (or is done) in the same epoch, whose members are just they."""
        ids = frozenset(peer.id for peer in peers)

        def agreed() -> bool:
            return (
                all(peer.epoch_members == ids and peer.phase in ("training", "done") for peer in peers)
                and len({peer.epoch for peer in peers}) == 1
            )

        self.wait_until(agreed, f"one epoch of {len(ids)}", among=peers)

    def wait_for_progress(self, peers: list[Peer], rounds: int = 20) -> None:
        """Wait until each of ``peers`` has done ``rounds`` more rounds than the furthest of them has now."""
        goal = max(peer.round for peer in peers) + rounds
        self.wait_until(lambda: all(peer.round >= goal for peer in peers), f"round {goal}", among=peers)

    def wait_for_one_digest(self, peers: list[Peer]) -> None:
        """Wait until ``peers`` tell one digest of the parameters, of an evaluation yet to come; none lost a round."""
        old = {"", *(peer.digest for peer in peers)}
        self.wait_until(
            lambda: peers[0].digest not in old and len({peer.digest for peer in peers}) == 1, "one digest", among=peers
        )
        assert [peer.status["rounds_lost"] for peer in peers] == [0] * len(peers)

    def wait_for_one_result(self, peers: list[Peer]) -> None:
        """Wait until ``peers`` are done, in one epoch, with one digest of the parameters and no round lost."""
        self.wait_until(lambda: all(peer.phase == "done" for peer in peers), "all done", timeout=300, among=peers)
        self.wait_for_one_epoch(peers)
        self.wait_until(
            lambda: peers[0].digest != "" and len({peer.digest for peer in peers}) == 1, "one digest", among=peers
        )
        assert [peer.status["rounds_lost"] for peer in peers] == [0] * len(peers)

    def _watch(self, peer: Peer) -> None:
        def on_line(line: str) -> None:
            with self._changed:
                if line.startswith("{"):
                    peer.status = json.loads(line)
                    self._changed.notify_all()

        def on_end(code: int, last: str) -> None:
            with self._changed:
                if peer.ended is None and code == SwarmUnreachable.exit_code:
                    start()  # the container lives, but had no time to answer: how long that may last, waiting says
                else:
                    peer.ended = peer.ended or f"exit code {code}, last line: {last}"
                self._changed.notify_all()

        def start() -> None:
            peer.watch = Lines(["docker", "exec", peer.container, *looks], on_line, on_end)

        looks = ["lepton-peer", "status", "127.0.0.1:7700", "--json", "--watch", "--interval", str(LOOK_SECONDS)]
        peer.status = {}
        start()

    def _on_health(self, line: str) -> None:
        event = json.loads(line)
        with self._changed:
            container = event["Actor"]["ID"]
            peer = self._peers.setdefault(container, Peer(container))
            peer.healthy = event["Action"] == "health_status: healthy"
            self._changed.notify_all()

    def _expect_end(self, peer: Peer) -> None:
        with self._changed:
            peer.ended, peer.healthy = "by the test", False
        if peer.watch is not None:
            peer.watch.close()
