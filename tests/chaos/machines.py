"""Machines that peers run on: an address, a disk, keys, and the process that runs there now."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any

from disks import fill
from network_namespaces import Network, Place, command
from peer_processes import DEADLINE, PeerProcess, TrainingSwarm

from chaos.lineages import Violation
from chaos.oracle import Oracle
from lepton_p2p.client import SwarmStatus, connect
from lepton_p2p.credentials.certificates import make_invite
from lepton_p2p.credentials.folder import KeysFolder
from lepton_p2p.credentials.tokens import write_token

CHECKPOINT_EVERY = 40
"""Steps."""
WEIGHTS_EVERY = 50
DISK_KIB = 1024
PORT = 7700


class Reporting(PeerProcess):
    """Tells the oracle what its peer tells, and keeps only the last of it: a run may be long."""

    def __init__(self, oracle: Oracle, *process: Any) -> None:
        super().__init__(*process)
        self._oracle = oracle

    def noted(self, line: bytes) -> None:
        entry = json.loads(line)
        try:
            match entry["kind"]:
                case "round":
                    self._oracle.history.told(self.name, entry)
                    self.rounds, self.last_round = {entry["round"]: entry}, entry["round"]
                case "step":
                    self._oracle.history.stepped(self.name, entry)
        except Violation as violation:
            self._oracle.broke(violation)

    def listen(self) -> Callable[[str], bool]:
        """A function that says whether a text is in what was logged since now."""
        size = self.stderr.stat().st_size

        def said(text: str) -> bool:
            with self.stderr.open("rb") as file:
                file.seek(size)
                return text.encode() in file.read()

        return said


@dataclass
class Machine:
    """place: its network namespace, if it has one.  disk: its folder, a small file system if possible."""

    number: int
    place: Place | None
    disk: Path
    process: Reporting | None = None
    options: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The process that the oracle knows."""
        assert self.process is not None
        return self.process.name

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.running

    @property
    def state(self) -> Path:
        """What --state-dir names; keys are elsewhere, as a machine's are that gets a new disk."""
        return self.disk / "state"

    def checkpoints(self) -> list[str]:
        """Names of those on its disk, the oldest first."""
        return sorted(path.name for path in (self.state / "checkpoints").glob("checkpoint-*"))

    def fill(self) -> Path:
        """Leave no room on the disk; returns what takes it."""
        ballast = self.disk / "ballast"
        fill(ballast)
        return ballast


class Machines:
    """All machines of a run, and the swarm of the peers on them."""

    def __init__(self, swarm: TrainingSwarm, folder: Path, job: Path, *, pace: float) -> None:
        self.swarm = swarm
        self.all: list[Machine] = []
        self.bugs: list[str] = []
        """What those that have ended logged as errors."""
        self._folder, self._pace = folder, pace
        self._job = ("--job", str(job), "--checkpoint-every", str(CHECKPOINT_EVERY))
        self._keys: KeysFolder | None = None

    async def build(self, count: int, network: Network | None, *, sealed: bool, disks: bool) -> None:
        """network: one with a place for each, or none: all on loopback.  disks: small file systems can be mounted."""
        if sealed:
            self._keys = KeysFolder(self._folder / "authority")
            self._keys.init("lepton", "machine0")
        for number in range(count):
            disk = self._folder / f"disk{number}"
            disk.mkdir()
            if disks:
                await command("mount", "-t", "tmpfs", "-o", f"size={DISK_KIB}k", "tmpfs", str(disk))
            machine = Machine(number, network.places[number] if network else None, disk)
            self._equip(machine)
            self.all.append(machine)

    def _equip(self, machine: Machine) -> None:
        """Addresses and credentials."""
        machine.env = {"PACE": str(self._pace)}
        if machine.place is None:
            return
        machine.options = ("--listen", f"{machine.place.host}:{PORT}")
        if self._keys is None:
            machine.options += ("--insecure",)
        elif machine.number == 0:
            machine.options += ("--keys", str(self._keys.path))
        else:
            machine.options += ("--keys", str(self._folder / f"keys{machine.number}"))
            machine.env["LEPTON_TOKEN"] = write_token(make_invite(self._keys.issuer(), hours=24.0, may_issue=False))

    # -- what is done to them ----------------------------------------------------------------------------

    async def start(self, machine: Machine, *, join: Iterable[Machine], options: Sequence[str] = ()) -> None:
        """Start its peer and wait until it listens."""
        addresses = ",".join(other.process.address for other in join if other.process is not None)
        argv = [*self._job, *machine.options, *options, "--state-dir", str(machine.state)]
        process = await self.swarm.start(
            *argv,
            *(("--join", addresses) if addresses else ()),
            hooks={"weights_every": WEIGHTS_EVERY},
            env=machine.env,
            network=machine.place.path if machine.place else "",
        )
        assert isinstance(process, Reporting)
        machine.process = process

    async def start_again(self, machine: Machine, *, with_disk: bool) -> None:
        """Its peer joins those that run; without the disk it had, if so."""
        if not with_disk:
            shutil.rmtree(machine.state, ignore_errors=True)
        await self.start(machine, join=[other for other in self.all if other is not machine and other.running])

    async def found(self, *, options: Sequence[str] = ()) -> None:
        """The first starts a swarm, the others join it."""
        first, *others = self.all
        await self.start(first, join=(), options=options)
        for machine in others:
            await self.start(machine, join=[first], options=options)

    async def end(self, machines: Sequence[Machine], number: int = SIGKILL) -> float:
        """Signal all of them at once and wait for their ends; the time of the signal."""
        ended = [machine.process for machine in machines if machine.process is not None and machine.process.running]
        at = time.monotonic()
        for process in ended:
            process.signal(number)
        await self.swarm.until("they have ended", lambda: not any(process.running for process in ended))
        async with asyncio.timeout(DEADLINE):
            for process in ended:
                await asyncio.gather(*process.readers)
            expected = 0 if number == SIGTERM else -number
            assert process.status == expected, f"{process.name} ended with {process.status}\n{self.swarm.story()}"
        self.bugs += [line for line in self.swarm.bugs() if line.startswith(tuple(f"{peer.name}:" for peer in ended))]
        self.swarm.peers = [peer for peer in self.swarm.peers if peer not in ended]
        return at

    async def status(self, machine: Machine) -> SwarmStatus:
        """What its peer says of itself."""
        assert machine.process is not None
        keys = self._keys.path if self._keys is not None and machine.place is not None else None
        async with connect(machine.process.address, keys=keys, timeout=20.0) as client:
            return await client.status()

    @property
    def running(self) -> list[Machine]:
        return [machine for machine in self.all if machine.running]


def names(machines: Iterable[Machine]) -> frozenset[str]:
    """Their processes, as the oracle knows them."""
    return frozenset(machine.name for machine in machines)


def ids(machines: Iterable[Machine]) -> frozenset[str]:
    """Their peers, by the first digits of their ids."""
    return frozenset(machine.process.id for machine in machines if machine.process is not None)
