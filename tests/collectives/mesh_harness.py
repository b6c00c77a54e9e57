"""A whole butterfly in one process: real hubs, and links between all members on the loopback interface."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import attempts
import torch
from attempts import PATIENT, epoch_of, peer

from lepton_p2p.collectives.buffers import BufferPool
from lepton_p2p.collectives.butterfly_attempt import ButterflyAttempt
from lepton_p2p.collectives.inspection import inspect
from lepton_p2p.collectives.operations import Op
from lepton_p2p.collectives.outcome import Broken, Outcome
from lepton_p2p.collectives.packing import Packed
from lepton_p2p.identity import PeerId
from lepton_p2p.rounds.aggregation import Aggregation
from lepton_p2p.rounds.patience import Patience, PatienceConfig
from lepton_p2p.rounds.records import Flag, Record
from lepton_p2p.tasks import OwnedTasks
from lepton_p2p.transport.links import Arrivals, Link, LinkHub, Purpose

MEDIAN = Aggregation("median")


@dataclass
class Seat:
    """One member: its hub, its arrivals, its links to all others, its tasks, its memory."""

    rank: int
    hub: LinkHub
    arrivals: Arrivals = field(default_factory=Arrivals)
    links: dict[PeerId, Link] = field(default_factory=dict)
    tasks: OwnedTasks = field(default_factory=OwnedTasks)
    pool: BufferPool = field(default_factory=BufferPool)
    paces: dict[PeerId, Patience] = field(default_factory=dict)


Run = attempts.Run[Seat, ButterflyAttempt]


class Mesh:
    """``async with Mesh(4) as mesh``: everybody connected to everybody."""

    def __init__(self, world: int, *, patience: PatienceConfig = PATIENT, sealed: bool = False) -> None:
        self.world, self.patience, self.sealed = world, patience, sealed
        self.seats: list[Seat] = []

    async def __aenter__(self) -> Mesh:
        for rank in range(self.world):
            hub = LinkHub(peer(rank), host="127.0.0.1", heartbeat=self.patience.heartbeat, sealed=self.sealed)
            seat = Seat(rank, hub)
            hub.serve(Purpose.RING, seat.arrivals.accept)
            await hub.start()
            self.seats.append(seat)
        for seat in self.seats:
            for other in self.seats:
                if other is not seat:
                    await self.connect(seat, other)
        return self

    async def connect(self, seat: Seat, other: Seat) -> None:
        share = seat.hub.propose()
        ticket = other.hub.issue_ticket(peer(seat.rank), Purpose.RING, b"" if share is None else share.public)
        link = await seat.hub.open(peer(other.rank), "127.0.0.1", ticket, Purpose.RING, share)
        seat.links[peer(other.rank)] = link
        seat.paces[peer(other.rank)] = Patience(self.patience)

    async def __aexit__(self, *_: object) -> None:
        for seat in self.seats:
            await seat.hub.close()
            await seat.tasks.aclose()

    def prepare(
        self,
        rank: int,
        tensors: Sequence[torch.Tensor],
        aggregation: Aggregation = MEDIAN,
        *,
        round: int = 1,
        number: int = 1,
        weight: float = 1.0,
        record: Record | None = None,
        honest: bool = True,
        chunk_bytes: int = 1 << 20,
        on_hop: Callable[[int], None] | None = None,
    ) -> Run:
        """An attempt of the member ``rank`` that has not been started; not ``honest``: no number is looked at."""
        seat, epoch = self.seats[rank], epoch_of(self.world, number)
        packed = Packed.pack(tensors, Op.MEAN, pool=seat.pool, weight=weight, aggregation=aggregation)
        if not honest:
            packed = _unchecked(packed, tensors)
        layout = packed.layout(self.world, chunk_bytes=chunk_bytes)
        work = torch.full((layout.total,), 0xAA, dtype=torch.uint8)
        end: asyncio.Future[Outcome | Broken] = asyncio.get_running_loop().create_future()
        hops: list[int] = []
        flags = Flag.NONE if packed.finite else Flag.NON_FINITE
        mine = record or Record(peer(rank), weight if packed.finite else 0.0, packed.schema, flags=flags)
        attempt = ButterflyAttempt(
            epoch=epoch,
            round=round,
            me=peer(rank),
            layout=layout,
            aggregation=aggregation,
            votes_start=packed.votes_start,
            source=packed.source(rank),
            work=work,
            record=mine.encode(),
            inspect=lambda records: inspect(mine, epoch, Op.MEAN, records),
            links=seat.links,
            arrivals=seat.arrivals,
            paces=seat.paces,
            pool=seat.pool,
            tasks=seat.tasks,
            on_done=end.set_result,
            on_broken=end.set_result,
            on_hop=on_hop or hops.append,
        )
        return Run(seat, attempt, packed, work, end, hops, tensors)

    async def all(
        self, inputs: Sequence[Sequence[torch.Tensor]], aggregation: Aggregation = MEDIAN, **options: Any
    ) -> list[Run]:
        """Run one round on all members with these inputs, to the end."""
        weights = options.pop("weights", [1.0] * self.world)
        liars = options.pop("liars", ())
        runs = [
            self.prepare(rank, tensors, aggregation, weight=weights[rank], honest=rank not in liars, **options)
            for rank, tensors in enumerate(inputs)
        ]
        for run in runs:
            run.attempt.start()
        for run in runs:
            await run.outcome()
        return runs


def _unchecked(packed: Packed, tensors: Sequence[torch.Tensor]) -> Packed:
    """What a member would bring that does not look at its own numbers, or lies about them."""
    finite = [torch.zeros_like(tensor) for tensor in tensors]
    made = Packed.pack(finite, Op.MEAN, pool=packed._pool, copy=True, aggregation=packed.aggregation)
    assert made._flat is not None
    flat = made._flat
    for place in made._places:
        flat[place.start : place.stop].view(place.dtype).copy_(tensors[place.tensor].reshape(-1))
    return made
