"""The async client against a real control server and a real data plane, with a scripted peer behind them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import torch
from torch import nn

from lepton_p2p.client import connect
from lepton_p2p.collectives.fetch import FetchServer
from lepton_p2p.errors import AddressError, Closed, IntegrityError, JobMismatch, StateLost, SwarmUnreachable, WrongSwarm
from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.jobs import Job, parse_job
from lepton_p2p.membership.messages import Status
from lepton_p2p.runtime.manifests import to_wire
from lepton_p2p.training.snapshots import Snapshot, capture
from lepton_p2p.transport.handlers import Handlers
from lepton_p2p.transport.links.hub import LinkHub
from lepton_p2p.transport.links.link import Purpose
from lepton_p2p.transport.links.tickets import Ticket
from lepton_p2p.transport.server import ControlServer
from lepton_p2p.transport.values import (
    JobDocument,
    Manifest,
    MemberStatus,
    OfferReply,
    Phase,
    StatusReport,
    SwarmEvent,
)

ME = PeerId("5" * 32)
OTHER = PeerInfo(PeerId("6" * 32), "127.0.0.1:7702")
KIND = "weights"


def a_job() -> Job:
    return parse_job(
        '[model]\nname = "linear"\ninputs = 2\n[data]\nname = "synthetic_linear"\ninputs = 2\n'
        '[optimizer]\nname = "sgd"\nlr = 0.1\n[schedule]\nsteps = 1\n'
    )


class ScriptedPeer:
    """The handlers of one peer: says what it is told to say, and notes what it is given."""

    def __init__(self, hub: LinkHub) -> None:
        self.hub = hub
        self.address = ""
        self.taken: list[JobDocument] = []
        self.reply = OfferReply(True)
        self.watched = asyncio.Event()
        self.happening: asyncio.Queue[SwarmEvent] = asyncio.Queue()
        self.snapshot: Snapshot | None = None
        self.lie: Manifest | None = None

    async def open(self, remote: PeerId | None, purpose: Purpose, share: bytes) -> Ticket:
        return self.hub.issue_ticket(remote, purpose, share)

    async def status(self) -> StatusReport:
        return StatusReport(
            PeerInfo(ME, self.address), "0.1", "lepton", Phase.TRAINING, members=await self.members(), step=12, loss=0.5
        )

    async def members(self) -> tuple[MemberStatus, ...]:
        mine = MemberStatus(PeerInfo(ME, self.address), Status.ALIVE, in_epoch=True)
        return mine, MemberStatus(OTHER, Status.DEAD)

    async def submit(self, job: JobDocument) -> OfferReply:
        self.taken.append(job)
        return self.reply

    async def events(self) -> AsyncIterator[SwarmEvent]:
        self.watched.set()
        while True:
            yield await self.happening.get()

    async def weights(self) -> Manifest:
        if self.lie is not None:
            return self.lie
        if self.snapshot is None:
            raise StateLost("this peer has no parameters yet: ask again when it trains")
        return to_wire(KIND, self.snapshot.manifest)


@asynccontextmanager
async def a_peer(snapshot: Snapshot | None = None, *, served: Snapshot | None = None) -> AsyncIterator[ScriptedPeer]:
    """A peer that announces ``snapshot``, and whose data plane gives the bytes of ``served`` (by default the same)."""
    hub = LinkHub(ME, host="127.0.0.1")
    await hub.start()
    files = FetchServer()
    hub.serve(Purpose.FETCH, files.accept)
    peer = ScriptedPeer(hub)
    peer.snapshot = snapshot
    if snapshot is not None:
        files.provide(KIND, snapshot.round, (served or snapshot).read)
    async with ControlServer("127.0.0.1:0", swarm="lepton") as server:
        peer.address = await server.bind()
        await server.start(Handlers(links=peer, swarm=peer))
        try:
            yield peer
        finally:
            await hub.close()


def a_snapshot(seed: int = 0, hidden: int = 700) -> Snapshot:
    """Of a model with parameters and buffers, about 3 MiB, so that there are several chunks."""
    torch.manual_seed(seed)
    return capture(nn.Sequential(nn.Linear(hidden, hidden), nn.BatchNorm1d(hidden), nn.Linear(hidden, 300)), round=9)


class TestCalls:
    async def test_status_and_members_are_typed_values(self) -> None:
        async with a_peer() as peer, connect(peer.address) as client:
            status = await client.status()
            assert (status.peer.id, status.phase, status.step, status.loss) == (ME, Phase.TRAINING, 12, 0.5)
            members = await client.members()
            assert [(member.peer.id, member.status) for member in members] == [
                (ME, Status.ALIVE),
                (OTHER.id, Status.DEAD),
            ]

    async def test_a_job_travels_as_json_with_its_digest(self) -> None:
        job = a_job()
        async with a_peer() as peer, connect(peer.address) as client:
            await client.submit(job)
        assert peer.taken == [JobDocument(job.to_json().encode(), job.digest)]

    async def test_a_job_that_is_not_taken_is_an_error_that_says_why(self) -> None:
        async with a_peer() as peer, connect(peer.address) as client:
            peer.reply = OfferReply(False, "it trains another one")
            with pytest.raises(JobMismatch, match="does not take job job: it trains another one"):
                await client.submit(a_job())

    async def test_events_come_as_they_happen(self) -> None:
        async with a_peer() as peer, connect(peer.address) as client:
            events = client.events()
            first = asyncio.ensure_future(anext(events))
            await asyncio.wait_for(peer.watched.wait(), 10)
            sent = SwarmEvent(1.5e9, "joined", OTHER.id, "a peer joined", {"members": 2.0})
            peer.happening.put_nowait(sent)
            received = await asyncio.wait_for(first, 10)
            assert (received.kind, received.peer, dict(received.values)) == ("joined", OTHER.id, {"members": 2.0})


class TestErrors:
    async def test_nobody_there(self) -> None:
        async with connect("127.0.0.1:1") as client:
            with pytest.raises(SwarmUnreachable):
                await client.status()

    async def test_not_an_address(self) -> None:
        with pytest.raises(AddressError):
            connect("nowhere")

    async def test_a_swarm_with_another_name(self) -> None:
        async with a_peer() as peer, connect(peer.address, swarm="other") as client:
            with pytest.raises(WrongSwarm, match="other"):
                await client.status()

    async def test_before_and_after_the_context(self) -> None:
        client = connect("127.0.0.1:1")
        with pytest.raises(Closed):
            await client.status()
        async with client:
            pass
        with pytest.raises(Closed):
            await client.members()

    async def test_errors_of_the_peer_arrive_as_they_are(self) -> None:
        async with a_peer() as peer, connect(peer.address) as client:
            with pytest.raises(StateLost, match="no parameters yet"):
                await client.weights()


class TestWeights:
    async def test_they_arrive_bit_for_bit_under_the_names_of_the_state_dict(self) -> None:
        snapshot = a_snapshot()
        expected = {name.split(".", 1)[1]: tensor for name, tensor in snapshot.tensors().items()}
        async with a_peer(snapshot) as peer, connect(peer.address) as client:
            weights = await client.weights()
        assert weights.keys() == expected.keys()
        assert "1.running_mean" in weights
        for name, tensor in weights.items():
            assert tensor.dtype == expected[name].dtype
            assert torch.equal(tensor, expected[name])
            assert tensor.untyped_storage().nbytes() == tensor.nbytes

    async def test_bytes_that_were_changed_on_the_way_are_refused(self) -> None:
        async with a_peer(a_snapshot(0), served=a_snapshot(1)) as peer, connect(peer.address) as client:
            with pytest.raises(IntegrityError, match="wrong digest"):
                await client.weights()

    async def test_a_manifest_that_was_changed_on_the_way_is_refused(self) -> None:
        snapshot = a_snapshot()
        async with a_peer(snapshot) as peer, connect(peer.address) as client:
            peer.lie = replace(to_wire(KIND, snapshot.manifest), digest=bytes(32))
            with pytest.raises(IntegrityError, match="does not match its own digest"):
                await client.weights()
            peer.lie = replace(to_wire(KIND, snapshot.manifest), meta_json=b"\xff")
            with pytest.raises(IntegrityError, match="not text"):
                await client.weights()

    async def test_more_than_wanted_is_refused_before_it_is_fetched(self) -> None:
        async with a_peer(a_snapshot()) as peer, connect(peer.address) as client:
            with pytest.raises(IntegrityError, match="at most 1000 are taken"):
                await client.weights(max_bytes=1000)
            assert peer.hub.links == ()
