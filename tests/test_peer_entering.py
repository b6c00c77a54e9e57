"""When a peer takes part in rounds, and how it takes its input back: over real sockets, several peers on one loop."""

from __future__ import annotations

import asyncio

import pytest
import torch

import lepton_p2p as lp
from lepton_p2p.collectives.operations import Op
from lepton_p2p.collectives.packing import Packed
from lepton_p2p.peer import Peer


async def test_nobody_waits_for_a_peer_that_has_not_entered() -> None:
    async with Peer(preset="local") as first, Peer(preset="local", join=[first.address], enters=False) as second:
        assert (await first.barrier()).members == (first.id,)
        with pytest.raises(lp.WaitTimeout):
            await first.wait_for_members(2, timeout=0.5)
        both = await asyncio.gather(first.wait_for_members(2, timeout=20), second.wait_for_members(2, timeout=20))
        assert all(len(members) == 2 for members in both)
        results = await asyncio.gather(first.barrier(), second.barrier())
        assert results[0].members == results[1].members


async def test_a_peer_that_starts_a_swarm_has_entered_so_that_there_is_one() -> None:
    async with Peer(preset="local", enters=False) as peer:
        (member,) = await peer.wait_for_members(1, timeout=20)
        assert member.in_epoch


async def test_an_input_that_is_taken_back_is_in_no_result_and_the_peer_enters_again() -> None:
    async with Peer(preset="local") as first, Peer(preset="local", join=[first.address]) as second:
        await asyncio.gather(first.wait_for_members(2, timeout=20), second.wait_for_members(2, timeout=20))
        node, _ = second.parts
        packed = Packed.pack([torch.ones(2)], Op.SUM, weight=1.0, pool=node.rounds.pool)
        call = asyncio.ensure_future(node.rounds.run(packed))
        await asyncio.sleep(0)
        assert node.rounds.withdraw("the test says so")
        assert not node.rounds.withdraw("again"), "there is nothing any more"
        with pytest.raises(asyncio.CancelledError):
            await call
        tensor = torch.ones(2)
        result = await first.all_reduce(tensor, op="sum")
        assert (tensor.tolist(), result.members) == ([1.0, 1.0], (first.id,))
        await asyncio.gather(first.wait_for_members(2, timeout=20), second.wait_for_members(2, timeout=20))
