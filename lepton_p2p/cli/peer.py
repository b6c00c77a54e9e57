"""``lepton-peer`` without a command: run a peer until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self

import structlog
from rich.console import Console

from lepton_p2p.cli.progress import MetricsFile, View, follow, view_for
from lepton_p2p.cli.stopping import Stopped, StopSignal
from lepton_p2p.config import PeerSettings
from lepton_p2p.identity import PeerId, short
from lepton_p2p.jobs import Job, load_job
from lepton_p2p.peer import Peer
from lepton_p2p.transport.values import StatusReport

log = structlog.get_logger(__name__)

LEAVE_SECONDS = 2.3
"""For announcing the leave, handing back the round and closing; what is not done then, the others find out."""


class RunningPeer(Protocol):
    """What the command line needs of :class:`lepton_p2p.peer.Peer`."""

    @property
    def id(self) -> PeerId: ...

    @property
    def address(self) -> str: ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None: ...

    async def status(self) -> StatusReport:
        """What the peer knows and does now."""

    async def run_job(self) -> None:
        """Train what the swarm trains (after waiting for a job, if there is none) until it is done."""

    async def leave(self) -> None:
        """Hand back the round and tell the others."""


def make_peer(settings: PeerSettings, job: Job | None) -> RunningPeer:
    """The peer that ``settings`` describe, not started yet."""
    file = settings.job if settings.job is not None and settings.job.suffix == ".py" else None
    return Peer(**settings.peer_options(), trains=True, job=job, job_file=file)


async def serve(
    settings: PeerSettings,
    *,
    factory: Callable[[PeerSettings, Job | None], RunningPeer] = make_peer,
    view: View | None = None,
    console: Console | None = None,
) -> None:
    """Run a peer until its job is done (``exit_when_done``) or a signal comes; then leave the swarm.

    Raises whatever error of the tree ends the peer (exit code of the process).
    """
    console = console or Console()
    life: asyncio.Task[None] | None = None
    started = False

    def cut_short() -> None:
        if life is not None and not started:
            life.cancel()

    async def live() -> None:
        nonlocal started
        # A thread: the build() of a Python file takes as long as it takes, and signals must be heard meanwhile.
        job = None if settings.job is None else await asyncio.to_thread(load_job, settings.job)
        async with factory(settings, job) as peer:
            started = True
            print(f"peer {short(peer.id)} listens on {peer.address}, swarm {settings.swarm}", flush=True)
            try:
                await _work(peer, settings, stop, view or view_for(console))
            finally:
                await _leave(peer)

    with StopSignal(cut_short) as stop:
        life = asyncio.create_task(live())
        try:
            await life
        except asyncio.CancelledError:
            if not stop.is_set:
                raise


async def _work(peer: RunningPeer, settings: PeerSettings, stop: StopSignal, view: View) -> None:
    """Train and show it; returns when there is nothing more to do or the signal came."""
    with contextlib.ExitStack() as stack:
        shows = [stack.enter_context(view).show]
        if settings.metrics is not None:
            shows.append(stack.enter_context(MetricsFile(settings.metrics)).show)
        showing = asyncio.create_task(_show(peer, shows))
        try:
            await stop.unless(_until_done(peer, stay=not settings.exit_when_done))
        except Stopped:
            pass
        finally:
            showing.cancel()
            await asyncio.wait((showing,))


async def _show(peer: RunningPeer, shows: Sequence[Callable[[StatusReport], None]]) -> None:
    """Keep showing the status; a terminal that has gone away is no reason to stop training."""

    def show_all(status: StatusReport) -> None:
        for show in shows:
            show(status)

    try:
        try:
            await follow(peer.status, show_all)
        finally:
            show_all(await peer.status())  # how it ended
    except Exception:
        log.exception("progress is no longer shown, the peer goes on")


async def _until_done(peer: RunningPeer, *, stay: bool) -> None:
    await peer.run_job()
    if stay:  # late joiners, status and export still need this peer
        await asyncio.Event().wait()


async def _leave(peer: RunningPeer) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LEAVE_SECONDS):
            await peer.leave()
