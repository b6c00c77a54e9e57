"""A missed result is fetched from whoever holds it, and nothing that a holder says is believed unchecked."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
import torch

from lepton_p2p.collectives.buffers import BufferPool
from lepton_p2p.collectives.operations import Op
from lepton_p2p.collectives.packing import Packed
from lepton_p2p.collectives.pending import Pending, layout_for
from lepton_p2p.collectives.recovery import fetch_result
from lepton_p2p.errors import SwarmUnreachable
from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.rounds.records import Record
from lepton_p2p.transport.links.link import Link, Purpose
from lepton_p2p.transport.values import ResultInfo

ME, OTHER = PeerId("a" * 32), PeerId("b" * 32)
HOLDER = PeerInfo(OTHER, "127.0.0.1:9")
DIGEST = 77


def pending() -> Pending:
    packed = Packed.pack([torch.ones(8)], Op.SUM, pool=BufferPool())
    return Pending(packed, None, 1.0, b"", 0, asyncio.get_running_loop().create_future())


def described(what: Pending) -> ResultInfo:
    members = (ME, OTHER)
    return ResultInfo(
        round=4,
        epoch_number=2,
        epoch_tag=5,
        members=members,
        records=tuple(Record(peer, 1.0, what.packed.schema).encode() for peer in members),
        digest=DIGEST,
        nbytes=layout_for(what.packed, None, members).total,
        attempts=1,
    )


async def dialled_after(**changes: object) -> int:
    """How many links are opened to a holder whose description is right but for ``changes``; none gives a result."""
    what = pending()
    dialled = 0

    async def describe(holder: PeerInfo, round: int) -> ResultInfo:
        return replace(described(what), **changes)  # type: ignore[arg-type]

    async def connect(holder: PeerInfo, purpose: Purpose) -> Link:
        nonlocal dialled
        dialled += 1
        raise SwarmUnreachable("killed")

    kept = await fetch_result(
        4,
        DIGEST,
        [HOLDER],
        what,
        describe=describe,
        connect=connect,
        take=lambda size: torch.empty(size, dtype=torch.uint8),
    )
    assert kept is None
    return dialled


async def test_a_holder_that_describes_what_was_agreed_is_dialled() -> None:
    assert await dialled_after() == 1


@pytest.mark.parametrize(
    "lie",
    [
        {"digest": 78},
        {"nbytes": 1 << 40},
        {"records": (b"junk", b"junk")},
        {"records": (Record(ME, 1.0, 7).encode(),)},
        {"records": (Record(ME, 1.0, 7).encode(), Record(ME, 1.0, 7).encode())},
    ],
    ids=["digest", "size", "junk", "too few", "twice the same"],
)
async def test_a_holder_that_describes_something_else_is_not(lie: dict[str, object]) -> None:
    assert await dialled_after(**lie) == 0
