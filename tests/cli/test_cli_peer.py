"""Running a peer from the command line: what it prints, when it ends, and that it always leaves."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from cli_samples import a_member, a_status

from lepton_p2p.cli.peer import RunningPeer, serve
from lepton_p2p.cli.stopping import StopSignal
from lepton_p2p.config import PeerSettings, load_settings
from lepton_p2p.errors import JobError, PortInUse, StateLost
from lepton_p2p.identity import PeerId
from lepton_p2p.jobs import Job
from lepton_p2p.transport.values import Phase, StatusReport

JOB = 'name = "tiny"\n[model]\nname = "linear"\ninputs = 2\n[data]\nname = "synthetic_linear"\ninputs = 2\n' + (
    '[optimizer]\nname = "sgd"\nlr = 0.1\n[schedule]\nsteps = 1\n'
)


class ScriptedPeer:
    """Does what ``work`` does as its job, and notes what is done to it."""

    def __init__(
        self, work: Callable[[], Awaitable[None]], *, entering: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self._work = work
        self._entering = entering
        self.notes: list[str] = []
        self.phase = Phase.IDLE

    @property
    def id(self) -> PeerId:
        return a_member(1).peer.id

    @property
    def address(self) -> str:
        return "127.0.0.1:41234"

    async def __aenter__(self) -> Self:
        if self._entering is not None:
            await self._entering()
        self.notes.append("entered")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.notes.append("closed")

    async def status(self) -> StatusReport:
        return a_status(phase=self.phase)

    async def run_job(self) -> None:
        self.notes.append("runs")
        await self._work()
        self.phase = Phase.DONE
        self.notes.append("done")

    async def leave(self) -> None:
        self.notes.append("left")

    def made(self, settings: PeerSettings, job: Job | None) -> RunningPeer:
        self.job = job
        return self


async def nothing() -> None:
    pass


async def for_ever() -> None:
    await asyncio.Event().wait()


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(autouse=True)
async def no_watchdog(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """The thread that ends a process that does not leave in time would end the test run."""
    made: list[StopSignal] = []

    def harmless(on_first: Callable[[], None]) -> StopSignal:
        made.append(StopSignal(on_first, exit=lambda code: None))
        return made[-1]

    monkeypatch.setattr("lepton_p2p.cli.peer.StopSignal", harmless)
    yield
    for stop in made:
        stop.disarm()


async def test_it_says_where_it_listens_and_how_it_ended(capsys: pytest.CaptureFixture[str]) -> None:
    peer = ScriptedPeer(nothing)
    await serve(load_settings(exit_when_done=True, swarm="mine"), factory=peer.made)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "peer 00000001 listens on 127.0.0.1:41234, swarm mine"
    assert lines[-1].startswith("done, epoch 4, members 2, step 118")
    assert peer.notes == ["entered", "runs", "done", "left", "closed"]


async def test_it_stays_when_the_job_is_done_until_it_is_told_to_stop() -> None:
    async def work() -> None:
        asyncio.get_running_loop().call_later(0.05, interrupt)

    peer = ScriptedPeer(work)
    await asyncio.wait_for(serve(load_settings(), factory=peer.made), 10)
    assert peer.notes == ["entered", "runs", "done", "left", "closed"]


async def test_a_signal_in_the_middle_of_training_leaves_the_swarm() -> None:
    async def work() -> None:
        interrupt()
        await for_ever()

    peer = ScriptedPeer(work)
    await asyncio.wait_for(serve(load_settings(), factory=peer.made), 10)
    assert peer.notes == ["entered", "runs", "left", "closed"]


async def test_a_signal_while_it_starts_ends_it_quietly() -> None:
    async def entering() -> None:
        interrupt()
        await for_ever()

    peer = ScriptedPeer(nothing, entering=entering)
    await asyncio.wait_for(serve(load_settings(), factory=peer.made), 10)
    assert peer.notes == []


async def test_a_peer_that_cannot_say_goodbye_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lepton_p2p.cli.peer.LEAVE_SECONDS", 0.01)
    peer = ScriptedPeer(nothing)
    monkeypatch.setattr(peer, "leave", for_ever)
    await asyncio.wait_for(serve(load_settings(exit_when_done=True), factory=peer.made), 10)
    assert peer.notes[-1] == "closed"


async def test_errors_of_the_job_end_the_peer_after_it_has_left() -> None:
    async def work() -> None:
        raise StateLost("the last member died")

    peer = ScriptedPeer(work)
    with pytest.raises(StateLost):
        await serve(load_settings(), factory=peer.made)
    assert peer.notes == ["entered", "runs", "left", "closed"]


async def test_errors_of_the_start_come_through() -> None:
    async def entering() -> None:
        raise PortInUse("127.0.0.1:7700 is taken")

    with pytest.raises(PortInUse):
        await serve(load_settings(), factory=ScriptedPeer(nothing, entering=entering).made)


async def test_the_job_is_read_before_anything_starts(tmp_path: Path) -> None:
    file = tmp_path / "job.toml"
    peer = ScriptedPeer(nothing)
    with pytest.raises(JobError):
        await serve(load_settings(job=file), factory=peer.made)
    assert peer.notes == []
    file.write_text(JOB)
    await serve(load_settings(job=file, exit_when_done=True), factory=peer.made)
    assert peer.job is not None
    assert peer.job.name == "tiny"


async def test_progress_goes_into_the_metrics_file(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    await serve(load_settings(metrics=file, exit_when_done=True), factory=ScriptedPeer(nothing).made)
    last = json.loads(file.read_text().splitlines()[-1])
    assert (last["phase"], last["step"]) == ("done", 118)


async def test_a_terminal_that_has_gone_away_does_not_stop_the_training() -> None:
    class Broken:
        def __enter__(self) -> Broken:
            return self

        def __exit__(self, *exc_info: object) -> None:
            pass

        def show(self, status: StatusReport) -> None:
            raise BrokenPipeError

    worked = asyncio.Event()

    async def work() -> None:
        for _ in range(10):
            await asyncio.sleep(0)
        worked.set()

    peer = ScriptedPeer(work)
    await serve(load_settings(exit_when_done=True), factory=peer.made, view=Broken())
    assert worked.is_set()
    assert peer.notes[-2:] == ["left", "closed"]
