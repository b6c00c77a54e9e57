"""A whole ring in one process: real hubs and links on the loopback interface, one :class:`Seat` per member."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import attempts
import torch
from attempts import PATIENT, epoch_of, peer

from lepton_p2p.collectives.attempt import Attempt
from lepton_p2p.collectives.buffers import BufferPool
from lepton_p2p.collectives.operations import Op
from lepton_p2p.collectives.outcome import Broken, Outcome
from lepton_p2p.collectives.packing import Packed
from lepton_p2p.identity import PeerId
from lepton_p2p.rounds.patience import Patience, PatienceConfig
from lepton_p2p.transport.links import Arrivals, Link, LinkHub, Purpose

WAY = "memory"
"""How chunks get from one member of a :class:`Ring` to the next: through "sockets", "sealed" or not, through "memory"
that two share, or not at all because all work on one "board"."""
_BOARD_BYTES = 16 << 20


@dataclass
class Seat:
    """One member: its hub, its arrivals and its link to the right."""

    rank: int
    hub: LinkHub
    arrivals: Arrivals
    patience: PatienceConfig
    right: Link | None = None
    paces: dict[PeerId, Patience] = field(default_factory=dict)


Run = attempts.Run[Seat, Attempt]


class Ring:
    """``async with Ring(4) as ring``: everybody connected to the right neighbour."""

    def __init__(self, world: int, *, patience: PatienceConfig = PATIENT) -> None:
        self.world = world
        self.patience = patience
        self.pool = BufferPool()
        self.seats: list[Seat] = []
        self._boards: dict[tuple[int, int], torch.Tensor] = {}

    async def __aenter__(self) -> Ring:
        for rank in range(self.world):
            hub = LinkHub(
                peer(rank),
                host="127.0.0.1",
                heartbeat=self.patience.heartbeat,
                share_memory=WAY not in ("sockets", "sealed"),
                sealed=WAY == "sealed",
            )
            seat = Seat(rank, hub, Arrivals(), self.patience)
            hub.serve(Purpose.RING, seat.arrivals.accept)
            await hub.start()
            self.seats.append(seat)
        if self.world > 1:
            for seat in self.seats:
                await self.connect(seat)
        return self

    async def connect(self, seat: Seat) -> None:
        right = self.seats[(seat.rank + 1) % self.world]
        share = seat.hub.propose()
        ticket = right.hub.issue_ticket(peer(seat.rank), Purpose.RING, b"" if share is None else share.public)
        seat.right = await seat.hub.open(peer(right.rank), "127.0.0.1", ticket, Purpose.RING, share)

    async def __aexit__(self, *_: object) -> None:
        for seat in self.seats:
            await seat.hub.close()

    def prepare(
        self,
        rank: int,
        tensors: Sequence[torch.Tensor],
        op: Op = Op.SUM,
        *,
        round: int = 1,
        number: int = 1,
        weight: float = 1.0,
        root: int | None = None,
        record: bytes | None = None,
        inspect: Callable[[Sequence[bytes]], float | None] | None = None,
        chunk_bytes: int = 1 << 20,
        **options: Any,
    ) -> Run:
        """An attempt of the member ``rank`` that has not been started."""
        seat, epoch = self.seats[rank], epoch_of(self.world, number)
        packed = Packed.pack(tensors, op, pool=self.pool, weight=weight)
        layout = packed.layout(self.world, root=root, chunk_bytes=chunk_bytes)
        common = WAY == "board" and self.world > 1
        work = (
            self._board(round, number)[: layout.total]
            if common
            else torch.full((layout.total,), 0xAA, dtype=torch.uint8)
        )
        end: asyncio.Future[Outcome | Broken] = asyncio.get_running_loop().create_future()
        hops: list[int] = []
        left = epoch.left_of(peer(rank))
        attempt = Attempt(
            epoch=epoch,
            round=round,
            me=peer(rank),
            layout=layout,
            reduce_hops=packed.reduce_hops(self.world),
            op=op,
            source=packed.source(rank, root=root),
            work=work,
            common=common,
            record=record if record is not None else str(weight).encode(),
            inspect=inspect or (lambda records: sum(float(one) for one in records)),
            right=seat.right,
            arrivals=seat.arrivals,
            patience=seat.paces.setdefault(left, Patience(seat.patience)),
            on_done=end.set_result,
            on_broken=end.set_result,
            on_hop=options.pop("on_hop", hops.append),
            **options,
        )
        return Run(seat, attempt, packed, work, end, hops, tensors)

    def _board(self, round: int, number: int) -> torch.Tensor:
        """What all members see in this round of this epoch; fresh, so that nothing of others is mistaken for it."""
        if (round, number) not in self._boards:
            self._boards[round, number] = torch.full((_BOARD_BYTES,), 0xAA, dtype=torch.uint8)
        return self._boards[round, number]

    async def all(self, inputs: Sequence[Sequence[torch.Tensor]], op: Op = Op.SUM, **options: Any) -> list[Run]:
        """Run one round on all members with these inputs, to the end."""
        weights = options.pop("weights", [1.0] * self.world)
        runs = [self.prepare(r, tensors, op, weight=weights[r], **options) for r, tensors in enumerate(inputs)]
        for run in runs:
            run.attempt.start()
        for run in runs:
            await run.outcome()
        return runs
