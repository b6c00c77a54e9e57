"""Real peers whose links are sealed: rounds as ever, and one who sits on the wire can cost time, never a result."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest
from man_in_the_middle import Middle, Passing
from process_swarm import Nursery, ProcessSwarm

from lepton_p2p.credentials.folder import KeysFolder
from lepton_p2p.transport.links.handshake import SEALED_PREAMBLE

SIZES = [400_000, 3]
"""Chunks of half a megabyte, three peers: several reads of the socket each."""
LARGE = 20_000
"""A read of so many bytes is in the middle of a payload."""


class Mischief:
    """Does ``change`` to what passes a :class:`Middle`, once each time it is armed."""

    def __init__(self, change: Callable[[bytes], bytes]) -> None:
        self._change = change
        self.armed = False

    def __call__(self, passing: Passing, outbound: bool, data: bytes) -> bytes:
        if not self.armed or not outbound or len(data) < LARGE:
            return data
        self.armed = False
        return self._change(data)


def flip(data: bytes) -> bytes:
    return data[:10_000] + bytes([data[10_000] ^ 1]) + data[10_001:]


@contextlib.asynccontextmanager
async def tapped(
    nursery: Nursery, change: Mischief, **options: Any
) -> AsyncIterator[tuple[ProcessSwarm, list[Middle]]]:
    """Three peers with somebody on the wire before each of them; sealed unless ``options`` say another thing."""
    options = {"sealed": True, "share_memory": False, **options}
    async with contextlib.AsyncExitStack() as stack:
        swarm = await stack.enter_async_context(ProcessSwarm(nursery, SIZES))
        middles = []
        for count in range(1, 4):
            middle = await stack.enter_async_context(Middle(change=change))
            join = [worker.address for worker in swarm.workers]
            worker = await nursery.start(join=join, told_port=middle.port, **options)
            middle.target = worker.link_port
            swarm.workers.append(worker)
            middles.append(middle)
            assert len(swarm.workers) == count
        await swarm.settle()
        yield swarm, middles


@pytest.mark.parametrize("share_memory", [False, True])
async def test_rounds_are_exact_and_survive_a_kill_and_a_join(nursery: Nursery, share_memory: bool) -> None:
    async with ProcessSwarm(nursery, SIZES) as swarm:
        await swarm.grow(4, sealed=True, share_memory=share_memory)
        for _ in range(3):
            await swarm.round()
        if share_memory:
            await swarm.on_a_board()
        victim = swarm.workers[1]
        round = swarm.begin()
        victim.signal(SIGKILL)
        await victim.gone()
        rest = [worker for worker in swarm.workers if worker is not victim]
        round.check(await round.outcomes(rest))
        swarm.bury(victim)
        await swarm.round()
        await swarm.grow(4, sealed=True, share_memory=share_memory)
        await swarm.round()


async def test_nothing_of_what_peers_give_is_to_be_read_on_the_wire(nursery: Nursery) -> None:
    async with tapped(nursery, Mischief(bytes)) as (swarm, middles):
        await swarm.round()
        heard = [bytes(passing.out) for middle in middles for passing in middle.passing]
    assert sum(map(len, heard)) > 3 * 400_000 * 4, "the tensors went this way"
    for conversation in heard:
        # Whole numbers below a thousand have twelve zero bits at the end in float32: zeros by the thousand if open.
        assert conversation.count(b"\0\0") < len(conversation) / 10_000


async def test_with_credentials_links_are_sealed_without_being_told(nursery: Nursery, tmp_path: Path) -> None:
    KeysFolder(tmp_path / "keys").init("lepton", "first")
    options = {"sealed": False, "keys": str(tmp_path / "keys")}
    async with tapped(nursery, Mischief(bytes), **options) as (swarm, middles):
        await swarm.round()
        heard = [bytes(passing.out) for middle in middles for passing in middle.passing]
    assert len(heard) >= 3
    assert all(conversation.startswith(SEALED_PREAMBLE) for conversation in heard)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(flip, id="flips a bit"),
        pytest.param(lambda data: data * 2, id="repeats"),
        pytest.param(lambda data: data[:-1], id="leaves a byte out"),
        pytest.param(lambda data: data[LARGE // 2 :] + data[: LARGE // 2], id="changes the order"),
        pytest.param(lambda data: bytes(len(data)), id="replaces"),
    ],
)
async def test_one_who_changes_what_passes_gets_the_round_repeated_and_never_changes_it(
    nursery: Nursery, change: Callable[[bytes], bytes]
) -> None:
    mischief = Mischief(change)
    async with tapped(nursery, mischief) as (swarm, _):
        await swarm.round()
        for _ in range(2):
            mischief.armed = True
            round = swarm.begin()
            replies = await round.outcomes(swarm.workers)
            round.check(replies)
            assert not mischief.armed, "something was changed"
            assert max(reply["attempts"] for reply in replies) > 1
            assert len(replies[0]["contributors"]) == 3, "nobody was lost because of it"
        await swarm.round()
