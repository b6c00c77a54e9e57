"""Swarms that started apart become one; members that leave, or give up a round, are no trouble to the others."""

from __future__ import annotations

import asyncio
import socket
from signal import SIGTERM

import pytest
from process_swarm import DEADLINE, Nursery, ProcessSwarm


def dead_address() -> str:
    """Where nobody listens: bound for a moment by this process, so that nobody else had it either."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


async def test_two_swarms_that_started_apart_become_one_when_somebody_knows_both(nursery: Nursery) -> None:
    async with ProcessSwarm(nursery) as larger, ProcessSwarm(nursery) as smaller, ProcessSwarm(nursery) as whole:
        await larger.grow(2)
        await smaller.grow(1)
        await larger.round()
        alone = (await smaller.round())[0]
        assert alone["members"] == [smaller.workers[0].peer]
        seeds = [dead_address(), smaller.workers[0].address, larger.workers[0].address]
        link = await nursery.start(join=seeds)
        whole.workers = [*larger.workers, *smaller.workers, link]
        await whole.settle()
        # The smaller one's rounds are not those of the swarm that it is in now; its program is told so.
        (lost,) = [await whole.call(worker, "all_reduce", seed=1, sizes=whole.sizes) for worker in smaller.workers]
        assert lost["error"] == "Dropped"
        for _ in range(3):
            await whole.round()


async def test_a_seed_that_is_dead_does_not_matter_if_another_lives(nursery: Nursery) -> None:
    async with ProcessSwarm(nursery) as swarm:
        await swarm.grow(2)
        swarm.workers.append(await nursery.start(join=[dead_address(), swarm.workers[1].address, dead_address()]))
        await swarm.settle()
        await swarm.round()


async def test_a_peer_that_was_started_before_its_seed_finds_it_when_it_comes(nursery: Nursery) -> None:
    async with ProcessSwarm(nursery) as swarm:
        address = dead_address()
        early = await nursery.start(join=[address])
        swarm.workers = [early, await nursery.start(listen=address)]
        await swarm.settle()
        await swarm.round()


async def test_a_cancelled_round_costs_the_others_nothing_and_the_peer_enters_again(refilled: ProcessSwarm) -> None:
    swarm = refilled
    impatient, *others = swarm.workers
    late = others.pop()
    # The round cannot end, since one member does not come.
    pending = {worker: worker.ask("all_reduce", seed=1, sizes=swarm.sizes) for worker in (impatient, *others)}
    await swarm.call(impatient, "cancel", request=pending[impatient].number)  # type: ignore[attr-defined]
    assert (await pending[impatient])["error"] == "Cancelled"
    reply = await swarm.call(late, "all_reduce", seed=1, sizes=swarm.sizes)
    async with asyncio.timeout(DEADLINE):
        replies = [reply, *[await pending[worker] for worker in others]]
    for one in replies:
        assert "error" not in one, one
        assert one["values"] == replies[0]["values"]
        assert impatient.peer not in one["contributors"]
    await swarm.settle()
    await swarm.round()


async def test_sigterm_in_the_middle_of_a_round_is_no_error_for_the_others(refilled: ProcessSwarm) -> None:
    swarm = refilled
    leaver, *others = swarm.workers
    late = others[-1]
    early = [worker for worker in swarm.workers if worker is not late]
    pending = [worker.ask("all_reduce", seed=2, sizes=swarm.sizes) for worker in early]
    leaver.signal(SIGTERM)
    assert await leaver.gone() == 0
    swarm.bury(leaver)
    reply = await swarm.call(late, "all_reduce", seed=2, sizes=swarm.sizes)
    async with asyncio.timeout(DEADLINE):
        replies = [reply, *[await one for one in pending[1:]]]
    for one in replies:
        assert "error" not in one, one
        assert one["values"] == replies[0]["values"]
        assert one["contributors"] == [member for member in one["members"] if member != leaver.peer]
    assert leaver.peer in dict(replies[0]["lost"])
    await swarm.settle()
    await swarm.round()


@pytest.mark.parametrize("hop", [1, 3, 6])
async def test_sigterm_while_chunks_are_under_way_is_no_error_either(refilled: ProcessSwarm, hop: int) -> None:
    swarm = refilled
    leaver, *others = swarm.workers
    await swarm.call(leaver, "arm", at="hop", hop=hop, signal=SIGTERM)
    round = swarm.begin()
    assert await leaver.gone() == 0
    round.check(await round.outcomes(others))
    swarm.bury(leaver)
    await swarm.round()


async def test_the_first_peer_may_leave_and_the_others_hardly_notice(refilled: ProcessSwarm) -> None:
    swarm = refilled
    first, *_ = swarm.workers
    await swarm.call(first, "leave")
    swarm.bury(first)
    await swarm.round()
    await swarm.settle()
