"""A missed result is fetched from whoever holds it, and nothing that a holder says is believed unchecked."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import cast

import pytest
import torch

from lepton_p2p.collectives.buffers import BufferPool
from lepton_p2p.collectives.operations import Op
from lepton_p2p.collectives.outcome import result_digest
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


class Serving:
    """A link to a holder that serves ``result``."""

    def __init__(self, result: bytes) -> None:
        self.result = result
        self.closed = False

    def close(self) -> None:
        self.closed = True


class FakeFetcher:
    def __init__(self, link: Serving) -> None:
        self._link = link

    async def fetch_range(self, kind: str, key: int, offset: int, into: memoryview) -> None:
        into[:] = self._link.result[offset : offset + into.nbytes]


async def test_bytes_that_are_not_what_was_agreed_are_refused_and_the_next_holder_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    what = pending()
    layout = layout_for(what.packed, None, (ME, OTHER))
    right = torch.full((8,), 2.0).view(torch.uint8)
    damaged = right.clone()
    damaged[5] ^= 1
    digest = result_digest(right, layout)
    links = {"damaged:1": Serving(damaged.numpy().tobytes()), "right:1": Serving(right.numpy().tobytes())}

    async def describe(holder: PeerInfo, round: int) -> ResultInfo:
        return replace(described(what), digest=digest)

    async def connect(holder: PeerInfo, purpose: Purpose) -> Link:
        return cast(Link, links[holder.address])

    monkeypatch.setattr("lepton_p2p.collectives.recovery.Fetcher", FakeFetcher)
    holders = [PeerInfo(OTHER, address) for address in links]
    pool = BufferPool()
    kept = await fetch_result(4, digest, holders, what, describe=describe, connect=connect, take=pool.take)
    assert kept is not None
    assert torch.equal(kept.buffer, right)
    assert all(link.closed for link in links.values())
    alone = await fetch_result(4, digest, holders[:1], what, describe=describe, connect=connect, take=pool.take)
    assert alone is None, "a result with one wrong bit is none"
