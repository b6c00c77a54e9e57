"""Handlers that remember what they were given, and a server and channels around them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import pytest

from lepton_p2p.errors import LeptonError
from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.membership.messages import Packet, Status
from lepton_p2p.rounds.messages import RoundMessage
from lepton_p2p.transport.channels import Channels
from lepton_p2p.transport.handlers import Handlers
from lepton_p2p.transport.links.link import Purpose
from lepton_p2p.transport.links.tickets import Ticket
from lepton_p2p.transport.metadata import Hello
from lepton_p2p.transport.security import Security
from lepton_p2p.transport.server import ControlServer
from lepton_p2p.transport.values import (
    JobDocument,
    Manifest,
    MemberStatus,
    OfferReply,
    Phase,
    ResultInfo,
    StatusReport,
    SwarmEvent,
    TensorSpec,
)

ME = PeerInfo(PeerId("a" * 32), "127.0.0.1:7700")
YOU = PeerInfo(PeerId("b" * 32), "127.0.0.1:7701")
DEADLINE = 10.0

MANIFEST = Manifest(
    kind="snapshot",
    round=12,
    tensors=(TensorSpec("layer.weight", "float32", (3, 5), 0, 60), TensorSpec("steps", "int64", (), 64, 8)),
    total_bytes=72,
    chunk_bytes=64,
    chunk_digests=(b"x" * 32, b"y" * 32),
    meta_json=b'{"lr": 0.1}',
    digest=b"z" * 32,
)
RESULT = ResultInfo(12, 3, 2**64 - 1, (ME.id, YOU.id), (b"one", b"two"), 2**63 + 1, 1000, 2)
JOB = JobDocument(b'{"name": "digits"}', "0" * 64)
MEMBERS = (MemberStatus(ME, Status.ALIVE, 4, True), MemberStatus(YOU, Status.SUSPECT, 1, False))
STATUS = StatusReport(
    peer=ME,
    version="0.1.0",
    swarm="lepton",
    phase=Phase.TRAINING,
    members=MEMBERS,
    epoch=3,
    round=12,
    step=11,
    data_pass=2,
    loss=0.25,
    samples_per_second=1000.0,
    metrics={"accuracy": 0.97},
    rounds_done=12,
    rounds_retried=1,
    rounds_lost=0,
    params_digest="00ff",
    job_digest="0" * 64,
    job_name="digits",
    uptime=60.5,
    last_recovery_seconds=0.4,
)


class Recorder:
    """A handler for every service; ``failure`` is raised by each call while it is set."""

    def __init__(self) -> None:
        self.got: list[object] = []
        self.failure: Exception | None = None
        self.arrived = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.queue: asyncio.Queue[SwarmEvent | None] = asyncio.Queue()
        self.readers_gone = asyncio.Event()

    def handlers(self) -> Handlers:
        inbox = Inbox(self)
        return Handlers(membership=inbox, rounds=inbox, links=self, state=self, jobs=self, swarm=self)

    async def note(self, *what: object) -> None:
        self.got.append(what[0] if len(what) == 1 else what)
        self.arrived.set()
        await self.go_on.wait()
        if self.failure is not None:
            raise self.failure

    async def open(self, remote: PeerId | None, purpose: Purpose, share: bytes) -> Ticket:
        await self.note(remote, purpose, share)
        return Ticket(4242, b"t" * 32, share)

    async def manifest(self, kind: str, round: int) -> Manifest:
        await self.note(kind, round)
        return MANIFEST

    async def result(self, round: int) -> ResultInfo:
        await self.note(round)
        return RESULT

    async def get(self, digest: str) -> JobDocument:
        await self.note(digest)
        return JOB

    async def offer(self, job: JobDocument) -> OfferReply:
        await self.note("offer", job)
        return OfferReply(False, "busy with another job")

    async def submit(self, job: JobDocument) -> OfferReply:
        await self.note("submit", job)
        return OfferReply(True)

    async def status(self) -> StatusReport:
        await self.note("status")
        return STATUS

    async def members(self) -> tuple[MemberStatus, ...]:
        await self.note("members")
        return MEMBERS

    async def weights(self) -> Manifest:
        await self.note("weights")
        return MANIFEST

    async def events(self) -> AsyncIterator[SwarmEvent]:
        try:
            await self.note("events")
            while (event := await self.queue.get()) is not None:
                yield event
        finally:
            self.readers_gone.set()


class Inbox:
    """``deliver`` of membership and of rounds, into the same recorder."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    async def deliver(self, message: Packet | RoundMessage) -> None:
        await self._recorder.note(message)


@asynccontextmanager
async def serving(
    handlers: Handlers,
    *,
    swarm: str = "lepton",
    listen: str = "127.0.0.1:0",
    hello: Hello | None = None,
    security: Security | None = None,
) -> AsyncIterator[ControlServer]:
    async with ControlServer(listen, swarm=swarm, hello=hello, security=security) as server:
        await server.bind()
        await server.start(handlers)
        try:
            yield server
        finally:
            await server.stop(0)


@asynccontextmanager
async def calling(
    recorder: Recorder, *, me: PeerId | None = YOU.id, swarm: str = "lepton"
) -> AsyncIterator[tuple[str, Channels]]:
    """A server with ``recorder`` behind it: its address, and channels of another peer."""
    async with serving(recorder.handlers()) as server, Channels(swarm=swarm, me=me) as channels:
        yield server.address, channels


async def failing(awaitable: Awaitable[object], kind: type[LeptonError]) -> str:
    """The one line with which ``awaitable`` fails; it must be exactly of class ``kind``."""
    with pytest.raises(LeptonError) as caught:
        async with asyncio.timeout(DEADLINE):
            await awaitable
    assert type(caught.value) is kind, f"{type(caught.value).__name__}: {caught.value}"
    assert "\n" not in str(caught.value)
    return str(caught.value)
