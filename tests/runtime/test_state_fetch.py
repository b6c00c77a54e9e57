"""A joiner's state: from several members at once, every chunk checked, whatever the donors do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch

from lepton_p2p.collectives.fetch import FetchServer
from lepton_p2p.errors import IntegrityError, SchemaMismatch, StateLost, SwarmUnreachable
from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.rounds.epoch import Ballot, Epoch, Member
from lepton_p2p.runtime import state_fetch
from lepton_p2p.runtime.manifests import from_wire, to_wire
from lepton_p2p.runtime.state_fetch import SNAPSHOT, fetch_snapshot
from lepton_p2p.training.snapshots import Snapshot, capture
from lepton_p2p.training.state import Schema
from lepton_p2p.transport import values
from lepton_p2p.transport.links.hub import LinkHub
from lepton_p2p.transport.links.link import Link, Purpose

ROUND = 6
ME = PeerInfo(PeerId("f" * 32), "127.0.0.1:1")


def model(seed: int = 1, width: int = 700) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Linear(width, width)  # 1.9 MiB: several chunks


def snapshot_of(module: torch.nn.Module) -> Snapshot:
    return capture(module, torch.optim.SGD(module.parameters(), lr=0.1), round=ROUND)


def schema_of(module: torch.nn.Module) -> Schema:
    return Schema.of(module, torch.optim.SGD(module.parameters(), lr=0.1))


@dataclass
class Donor:
    """A member with a link hub of its own that serves a snapshot, or misbehaves."""

    info: PeerInfo
    hub: LinkHub
    server: FetchServer = field(default_factory=FetchServer)
    describe: Callable[[], values.Manifest] | None = None
    links: list[Link] = field(default_factory=list)

    def serve(self, snapshot: Snapshot, read: Callable[[int, int], memoryview] | None = None) -> None:
        self.describe = lambda: to_wire(SNAPSHOT, snapshot.manifest)
        self.server.provide(SNAPSHOT, ROUND, read or snapshot.read)


class FakeNode:
    """What ``fetch_snapshot`` needs of a node: an epoch, calls, links."""

    def __init__(self, hub: LinkHub, donors: list[Donor]) -> None:
        self.me = ME
        self.hub = hub
        self.donors = {donor.info.id: donor for donor in donors}
        self.options = SimpleNamespace(call_timeout=1.0)
        members = (*(Member(donor.info, 1) for donor in donors), Member(ME, ROUND + 1))
        self.rounds = SimpleNamespace(epoch=Epoch(3, Ballot(1, ME.id), members), completed=ROUND + 1)
        self.channels = SimpleNamespace(manifest=self.manifest)

    async def manifest(self, to: PeerInfo, kind: str, round: int, timeout: float) -> values.Manifest:
        donor = self.donors[to.id]
        if donor.describe is None:
            raise StateLost("not kept here")
        return donor.describe()

    async def connect(self, peer: PeerInfo, purpose: Purpose) -> Link:
        donor = self.donors[peer.id]
        return await self.hub.open(peer.id, "127.0.0.1", donor.hub.issue_ticket(ME.id, purpose), purpose)

    def lose(self, donor: Donor) -> None:
        """The epoch goes on without ``donor``."""
        epoch = self.rounds.epoch
        self.rounds.epoch = Epoch(
            epoch.number + 1, epoch.ballot, tuple(m for m in epoch.members if m.id != donor.info.id)
        )


@pytest.fixture
async def world() -> AsyncIterator[Callable[[int], FakeNode]]:
    """Makes a node with so many donors; all hubs are closed after the test."""
    hubs: list[LinkHub] = []
    async with contextlib.AsyncExitStack() as stack:

        async def hub(peer: PeerId) -> LinkHub:
            hubs.append(LinkHub(peer, host="127.0.0.1"))
            await hubs[-1].start()
            stack.push_async_callback(hubs[-1].close)
            return hubs[-1]

        donors = []
        for letter in "abc":
            info = PeerInfo(PeerId(letter * 32), f"127.0.0.1:{ord(letter)}")
            donor = Donor(info, await hub(info.id))
            donor.hub.serve(Purpose.FETCH, donor.server.accept)
            donors.append(donor)
        mine = await hub(ME.id)
        yield lambda count: FakeNode(mine, donors[:count])


def same(one: Snapshot, two: Snapshot) -> bool:
    return one.manifest.digest == two.manifest.digest


World = Callable[[int], FakeNode]


@pytest.mark.parametrize("count", [1, 3])
async def test_the_state_comes_bit_by_bit(world: World, count: int) -> None:
    node, snapshot = world(count), snapshot_of(model())
    for donor in node.donors.values():
        donor.serve(snapshot)
    assert same(await fetch_snapshot(node, ROUND, schema_of(model())), snapshot)  # type: ignore[arg-type]


async def test_wrong_bytes_are_refused_and_fetched_from_the_others(world: World) -> None:
    node, snapshot = world(3), snapshot_of(model())
    liar, *honest = node.donors.values()

    def lie(offset: int, length: int) -> memoryview:
        data = bytearray(snapshot.read(offset, length))
        data[len(data) // 2] ^= 1
        return memoryview(data)

    liar.serve(snapshot, lie)
    for donor in honest:
        donor.serve(snapshot)
    assert same(await fetch_snapshot(node, ROUND, schema_of(model())), snapshot)  # type: ignore[arg-type]


async def test_a_donor_that_dies_in_the_middle_is_replaced(world: World) -> None:
    node, snapshot = world(2), snapshot_of(model())
    mortal, other = node.donors.values()

    def die(offset: int, length: int) -> memoryview:
        node.lose(mortal)
        for link in mortal.hub.links:
            link.abort("killed")
        return snapshot.read(offset, length)

    mortal.serve(snapshot, die)
    other.serve(snapshot)
    assert same(await fetch_snapshot(node, ROUND, schema_of(model())), snapshot)  # type: ignore[arg-type]


async def test_a_donor_that_describes_something_else_is_outvoted(world: World) -> None:
    node, snapshot = world(3), snapshot_of(model())
    odd, *others = node.donors.values()
    odd.serve(snapshot_of(model(seed=2)))
    for donor in others:
        donor.serve(snapshot)
    assert same(await fetch_snapshot(node, ROUND, schema_of(model())), snapshot)  # type: ignore[arg-type]


async def test_two_donors_that_differ_have_no_majority(world: World) -> None:
    node = world(2)
    for seed, donor in enumerate(node.donors.values()):
        donor.serve(snapshot_of(model(seed)))
    with pytest.raises(IntegrityError, match="do not agree"):
        await fetch_snapshot(node, ROUND, schema_of(model()))  # type: ignore[arg-type]


async def test_a_state_of_another_model_is_refused_before_memory_is_taken(world: World) -> None:
    node = world(1)
    next(iter(node.donors.values())).serve(snapshot_of(model(width=701)))
    with pytest.raises(SchemaMismatch):
        await fetch_snapshot(node, ROUND, schema_of(model()))  # type: ignore[arg-type]


async def test_when_the_last_donor_is_gone_the_state_is_lost(world: World) -> None:
    node = world(1)
    (donor,) = node.donors.values()

    def gone() -> values.Manifest:
        node.lose(donor)
        raise SwarmUnreachable("killed")

    donor.describe = gone
    with pytest.raises(StateLost, match="no member"):
        await fetch_snapshot(node, ROUND, schema_of(model()))  # type: ignore[arg-type]


def test_a_manifest_that_was_changed_on_the_way_is_refused() -> None:
    wire = to_wire(SNAPSHOT, snapshot_of(model()).manifest)
    assert from_wire(wire).digest == wire.digest
    with pytest.raises(IntegrityError, match="own digest"):
        from_wire(
            values.Manifest(
                wire.kind,
                wire.round + 1,
                wire.tensors,
                wire.total_bytes,
                wire.chunk_bytes,
                wire.chunk_digests,
                wire.meta_json,
                wire.digest,
            )
        )


async def test_cancelling_ends_at_once_and_leaves_nothing_that_keeps_the_hub_open(world: World) -> None:
    node, snapshot = world(1), snapshot_of(model())
    (donor,) = node.donors.values()
    asked = asyncio.Event()

    def never(offset: int, length: int) -> memoryview:
        asked.set()
        return memoryview(b"")  # refused as out of range after the cancellation below

    donor.serve(snapshot, never)
    fetch = asyncio.ensure_future(fetch_snapshot(node, ROUND, schema_of(model())))  # type: ignore[arg-type]
    await asked.wait()
    fetch.cancel()
    await asyncio.gather(fetch, return_exceptions=True)
    await asyncio.wait_for(node.hub.close(), 10)
    assert not node.hub.links


async def test_members_that_refuse_at_once_are_not_asked_without_a_pause(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = world(1)
    (donor,) = node.donors.values()
    asked = 0

    def refuse() -> values.Manifest:
        nonlocal asked
        asked += 1
        raise SwarmUnreachable("killed")

    donor.describe = refuse
    monkeypatch.setattr(state_fetch, "AGAIN", 3600.0)
    fetch = asyncio.ensure_future(fetch_snapshot(node, ROUND, schema_of(model())))  # type: ignore[arg-type]
    for _ in range(100):
        await asyncio.sleep(0)
    fetch.cancel()
    await asyncio.gather(fetch, return_exceptions=True)
    assert asked == 1


async def test_cancelling_while_one_donor_is_dialled_closes_the_link_to_another(world: World) -> None:
    node, snapshot = world(2), snapshot_of(model())
    first, second = node.donors.values()
    for donor in (first, second):
        donor.serve(snapshot)
    reached: asyncio.Future[Link] = asyncio.get_running_loop().create_future()
    connect = node.connect

    async def dial(peer: PeerInfo, purpose: Purpose) -> Link:
        if peer != first.info:
            await asyncio.Event().wait()
        link = await connect(peer, purpose)
        reached.set_result(link)
        return link

    node.connect = dial  # type: ignore[method-assign]
    fetch = asyncio.ensure_future(fetch_snapshot(node, ROUND, schema_of(model())))  # type: ignore[arg-type]
    link = await reached
    fetch.cancel()
    await asyncio.gather(fetch, return_exceptions=True)
    lost = asyncio.Event()
    link.watch(lambda reason: lost.set())
    if link.closed is None:
        await asyncio.wait_for(lost.wait(), 10)


async def test_when_those_that_kept_the_state_are_gone_and_the_rounds_have_passed_it_is_lost(world: World) -> None:
    node = world(2)  # members that were there then, but took no snapshot: they were catching up themselves
    fetch = asyncio.create_task(fetch_snapshot(node, ROUND, schema_of(model())))  # type: ignore[arg-type]
    asked = 0

    async def manifest(address: str, kind: str, round: int, timeout: float) -> values.Manifest:
        nonlocal asked
        asked += 1
        if asked == 6:
            node.rounds.completed = ROUND + 2  # from now on nobody can still be about to take it
        raise StateLost("not kept here")

    node.channels.manifest = manifest
    with pytest.raises(StateLost, match="are gone"):
        await asyncio.wait_for(fetch, 30)
    assert asked >= 8, "before that it is only early"


async def test_a_member_that_does_not_answer_may_still_have_the_state(world: World) -> None:
    node, snapshot = world(2), snapshot_of(model())
    node.rounds.completed = ROUND + 9
    silent, *_ = node.donors.values()
    failures = 0

    def unreachable() -> values.Manifest:
        nonlocal failures
        failures += 1
        if failures == 3:
            silent.serve(snapshot)
        raise SwarmUnreachable("no answer")

    silent.describe = unreachable
    assert same(await fetch_snapshot(node, ROUND, schema_of(model())), snapshot)  # type: ignore[arg-type]
