"""What the tests of all kinds of attempts share: inputs, an attempt under way, and chunks of one's own making."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

from lepton_p2p.collectives.outcome import Broken, Outcome
from lepton_p2p.collectives.packing import Packed
from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.rounds.epoch import Ballot, Epoch, Member
from lepton_p2p.rounds.patience import PatienceConfig
from lepton_p2p.transport.links.frames import Kind, checksum, encode

DEADLINE = 20.0
PATIENT = PatienceConfig(heartbeat=0.2, floor=10.0, ceiling=10.0, connect=10.0)
HASTY = PatienceConfig(heartbeat=0.02, floor=0.1, ceiling=0.2, connect=0.2)
SHAPES: list[list[tuple[int, ...]]] = [[], [(0,)], [()], [(3,)], [(5, 7), (1000,), (2, 3, 4)], [(300_000,), (17,)]]
SeatT = TypeVar("SeatT")
AttemptT = TypeVar("AttemptT")


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what nothing announces; fails at the deadline."""
    async with asyncio.timeout(DEADLINE):
        while True:
            if condition():
                return
            await asyncio.sleep(0.001)


def peer(rank: int) -> PeerId:
    return PeerId(f"{rank + 1:032x}")


def epoch_of(world: int, number: int = 1) -> Epoch:
    members = tuple(Member(PeerInfo(peer(rank), "127.0.0.1:1"), 1) for rank in range(world))
    return Epoch(number, Ballot(number, peer(0)), members)


def inputs(
    world: int, shapes: Sequence[tuple[int, ...]], dtype: torch.dtype = torch.float32, seed: int = 0
) -> list[list[torch.Tensor]]:
    """Random ones for each member; integers are from 0 to 99."""
    generator = torch.Generator().manual_seed(100 * world + seed)
    if dtype.is_floating_point:
        return [[torch.randn(shape, generator=generator).to(dtype) for shape in shapes] for _ in range(world)]
    return [[torch.randint(0, 100, shape, generator=generator).to(dtype) for shape in shapes] for _ in range(world)]


@dataclass
class Run(Generic[SeatT, AttemptT]):
    """An attempt under way at one seat; ``end`` is an :class:`Outcome` or a :class:`Broken`."""

    seat: SeatT
    attempt: AttemptT
    packed: Packed
    work: torch.Tensor
    end: asyncio.Future[Outcome | Broken]
    hops: list[int]
    tensors: Sequence[torch.Tensor]

    async def outcome(self) -> Outcome:
        end = await asyncio.wait_for(asyncio.shield(self.end), DEADLINE)
        assert isinstance(end, Outcome), end
        return end

    async def broken(self) -> Broken:
        end = await asyncio.wait_for(asyncio.shield(self.end), DEADLINE)
        assert isinstance(end, Broken), end
        return end

    def unpacked(self, slot: int = 0) -> list[torch.Tensor]:
        """What the caller would be given; ``slot``: of several that were gathered."""
        result = [torch.empty_like(tensor) for tensor in self.tensors]
        self.packed.unpack(self.work, result, slot=slot)
        return result


def chunk(payload: bytes, *, digest: int | None = None, **fields: Any) -> bytes:
    """The header of a chunk of epoch 1 of two members, round 1; ``digest``: not that of ``payload``."""
    epoch = epoch_of(2)
    return encode(
        Kind.CHUNK,
        epoch=epoch.number,
        tag=epoch.tag,
        round=1,
        payload=len(payload),
        payload_checksum=checksum(payload) if digest is None else digest,
        **fields,
    )
