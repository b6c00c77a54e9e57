"""Rounds in which owners compare all contributions: as atomic as those on a ring, and poison has its limits."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from signal import SIGKILL, SIGSTOP
from typing import Any

import pytest
from process_swarm import DEADLINE, Nursery, ProcessSwarm
from test_kill_points import named, survivors_finish

HOPS = range(1, 7)
"""Four members: three contributions and three results come to each."""
POINTS: list[dict[str, Any]] = [
    {"at": "run"},
    *({"at": "hop", "hop": hop} for hop in HOPS),
    {"at": "done"},
    {"at": "decided"},
]


@pytest.fixture(scope="module")
async def robust(nursery: Nursery) -> AsyncIterator[ProcessSwarm]:
    """Four peers whose rounds are medians, and that stay from test to test."""
    async with ProcessSwarm(nursery, aggregation="median") as made:
        yield made


@pytest.fixture
async def swarm(robust: ProcessSwarm) -> ProcessSwarm:
    """With fresh peers in the places of those that the tests before killed."""
    await robust.grow(4)
    return robust


async def test_a_median_counts_everybody_once_whatever_its_weight(swarm: ProcessSwarm) -> None:
    (reply, *_) = await swarm.round()
    assert reply["attempts"] == 1
    assert reply["trimmed"] == 1
    assert reply["bytes_sent"] > 0, "it goes through sockets, in one machine as well"


@pytest.mark.parametrize(
    ("fault", "rank"),
    [(fault, number % 4) for number, fault in enumerate(POINTS)],
    ids=lambda value: named(value) if isinstance(value, dict) else None,
)
async def test_the_survivors_finish_the_round_in_which_one_was_killed(
    swarm: ProcessSwarm, fault: dict[str, Any], rank: int
) -> None:
    victim = swarm.workers[rank]
    await swarm.call(victim, "arm", signal=SIGKILL, **fault)
    round = swarm.begin()
    assert await victim.gone() == -SIGKILL
    replies = await survivors_finish(swarm, round, [victim])
    if fault["at"] == "run":
        assert victim.peer not in replies[0]["contributors"], "it had sent nothing"
    await swarm.round()


async def test_the_survivors_of_kills_amid_many_chunks_hold_the_same_bytes(nursery: Nursery) -> None:
    async with ProcessSwarm(nursery, [5_000_000], aggregation="median") as swarm:
        for hop in (1, 3, 4, 6):
            await swarm.grow(4)
            victim = swarm.workers[hop % 4]
            await swarm.call(victim, "arm", at="hop", hop=hop, signal=SIGKILL)
            round = swarm.begin()
            assert await victim.gone() == -SIGKILL
            await survivors_finish(swarm, round, [victim])


async def test_who_misses_the_result_gets_it_from_who_has_it(swarm: ProcessSwarm) -> None:
    victim, misses, *others = swarm.workers
    await swarm.call(victim, "arm", at="withhold", peer=misses.peer)
    round = swarm.begin()
    # All but one have the result ...
    await round.outcomes([victim, *others])
    # ... which the one will never get from the victim.
    victim.signal(SIGKILL)
    replies = await survivors_finish(swarm, round, [victim])
    recovered = {w.peer: r["recovered"] for w, r in zip(swarm.workers, replies, strict=True)}
    assert recovered == {w.peer: w.peer == misses.peer for w in swarm.workers}
    assert victim.peer in replies[0]["contributors"]


async def test_one_that_stops_is_left_behind_and_the_others_go_on(swarm: ProcessSwarm) -> None:
    victim = swarm.workers[2]
    await swarm.call(victim, "arm", at="hop", hop=2, signal=SIGSTOP)
    round = swarm.begin()
    others = [worker for worker in swarm.workers if worker is not victim]
    replies = await round.outcomes(others)
    round.check(replies)
    assert victim.peer not in replies[0]["members"]
    victim.signal(SIGKILL)
    await victim.gone()
    swarm.bury(victim)
    await swarm.round()


async def test_one_that_begins_late_is_waited_for(nursery: Nursery) -> None:
    """In the first round of an epoch, too, in which nobody has a link to everybody yet."""
    async with ProcessSwarm(nursery, aggregation="median") as swarm:
        await swarm.grow(3)
        late, *others = swarm.workers
        early = swarm.without(late).begin()
        # Two come in, and it opens two: so it is heard, although it has not been asked to take part.
        async with asyncio.timeout(DEADLINE):
            while (await swarm.call(late, "links"))["links"] < 4:
                pass
        assert not any(pending.done() for pending in early.pending.values())
        reply = await swarm.call(late, "all_reduce", seed=5, weight=0, sizes=swarm.sizes, aggregation="median")
        replies = await early.outcomes(others)
        early.check(replies)
        assert reply["values"] == replies[0]["values"]
        assert {one["attempts"] for one in (reply, *replies)} == {1}


async def test_two_die_in_one_round(swarm: ProcessSwarm) -> None:
    victims = swarm.workers[1:3]
    for victim, hop in zip(victims, (2, 5), strict=True):
        await swarm.call(victim, "arm", at="hop", hop=hop, signal=SIGKILL)
    round = swarm.begin()
    await asyncio.wait([victim.ended for victim in victims], return_when=asyncio.FIRST_COMPLETED)
    for victim in victims:
        victim.signal(SIGKILL)
        await victim.gone()
    await survivors_finish(swarm, round, victims)
    await swarm.round()


@pytest.mark.parametrize("bad", [math.nan, math.inf], ids=["nan", "inf"])
@pytest.mark.parametrize("lies", [False, True], ids=["says so", "lies"])
async def test_a_peer_with_bad_numbers_is_named_and_all_hold_the_same_bytes(
    swarm: ProcessSwarm, bad: float, lies: bool
) -> None:
    def told() -> int:
        return sum(swarm.nursery.log(worker).count("contribution is not finite") for worker in swarm.workers)

    sinner, before = swarm.workers[1], told()
    round = swarm.begin({sinner.peer: {"bad": bad, "lies": lies}})
    replies = await round.outcomes(swarm.workers)
    honest = {worker.peer for worker in swarm.without(sinner).workers}
    for reply in replies:
        assert reply["refused"] == [sinner.peer]
        assert set(reply["contributors"]) == honest
        assert reply["attempts"] == 1, await swarm.story()
        for field in ("digest", "values", "members", "total_weight", "trimmed"):
            assert reply[field] == replies[0][field]
    assert told() - before == lies, "the one that owns the part that it is in says so, unless the sender does"
    await swarm.round()


@pytest.mark.parametrize("odd", ["mean", "trimmed_mean", "clip"])
async def test_another_aggregation_is_an_error_for_all_and_changes_nothing(swarm: ProcessSwarm, odd: str) -> None:
    stranger = swarm.workers[2]
    round = swarm.begin({stranger.peer: {"aggregation": odd}})
    for reply in await round.outcomes(swarm.workers):
        assert reply["error"] == "SchemaMismatch", reply
        assert stranger.peer[:8] in reply["message"]
        assert reply["unchanged"]
    await swarm.round()


async def test_two_members_are_told_once_that_they_are_too_few(nursery: Nursery) -> None:
    async with ProcessSwarm(nursery, aggregation="median") as swarm:
        await swarm.grow(2)
        for _ in range(3):
            assert {reply["trimmed"] for reply in await swarm.round()} == {0}
        for worker in swarm.workers:
            assert nursery.log(worker).count("too few members contribute for median") == 1


async def test_means_and_medians_may_follow_each_other(swarm: ProcessSwarm) -> None:
    for aggregation in ("mean", "median", "mean", "mean", "median"):
        swarm.aggregation = aggregation
        await swarm.round()
    swarm.aggregation = "median"


async def test_sealed_links_make_no_difference(nursery: Nursery) -> None:
    async with ProcessSwarm(nursery, aggregation="median") as swarm:
        await swarm.grow(3, sealed=True)
        await swarm.round()
        victim = swarm.workers[0]
        await swarm.call(victim, "arm", at="hop", hop=3, signal=SIGKILL)
        round = swarm.begin()
        assert await victim.gone() == -SIGKILL
        await survivors_finish(swarm, round, [victim])
