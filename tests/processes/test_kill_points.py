"""SIGKILL at every point of a round and of the agreement after it.

Whatever the point, the survivors finish the round, hold the same bytes, and these are the mean over the contributors
that they name: all members, or the survivors.  One swarm goes through all points, fresh peers replacing the dead; and
another, with credentials.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from signal import SIGKILL, SIGSTOP
from typing import Any

import pytest
from process_swarm import DEADLINE, Nursery, ProcessSwarm, Reply, Round, Worker

from lepton_p2p.credentials.folder import KeysFolder

HOPS = range(1, 7)
"""2(N-1) of a ring of four."""
IN_A_ROUND: list[dict[str, Any]] = [
    {"at": "run"},
    *({"at": "hop", "hop": hop} for hop in HOPS),
    {"at": "done"},
    {"at": "decided"},
]
IN_AN_AGREEMENT: list[dict[str, Any]] = [
    {"message": "Prepare", "delivered": 0},
    {"message": "Prepare", "delivered": 1},
    {"message": "Promise", "delivered": 0},
    {"message": "Promise", "delivered": 1},
    {"message": "Install", "delivered": 0},
    {"message": "Install", "delivered": 1},
]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Credentials of a swarm; with them links are sealed and claims are signed."""
    folder = tmp_path_factory.mktemp("authority") / "keys"
    KeysFolder(folder).init("lepton", "first")
    return str(folder)


@pytest.fixture(scope="module", params=["open", "sealed"])
async def lasting_swarm(request: pytest.FixtureRequest, nursery: Nursery, keys: str) -> AsyncIterator[ProcessSwarm]:
    """Without credentials, and with; then every byte goes over sealed links."""
    options = {"keys": keys, "share_memory": False} if request.param == "sealed" else {}
    async with ProcessSwarm(nursery, **options) as made:
        yield made


def named(fault: dict[str, Any]) -> str:
    return "-".join(map(str, fault.values()))


async def first_to_die(suspects: list[Worker]) -> Worker:
    async with asyncio.timeout(DEADLINE):
        await asyncio.wait([worker.ended for worker in suspects], return_when=asyncio.FIRST_COMPLETED)
    return next(worker for worker in suspects if worker.ended.done())


async def survivors_finish(swarm: ProcessSwarm, round: Round, dead: list[Worker]) -> list[Reply]:
    survivors = [worker for worker in swarm.workers if worker not in dead]
    replies = await round.outcomes(survivors)
    round.check(replies)
    everyone, living = {w.peer for w in swarm.workers}, {w.peer for w in survivors}
    assert set(replies[0]["contributors"]) in (everyone, living)
    swarm.bury(*dead)
    return replies


@pytest.mark.parametrize(
    ("fault", "rank"),
    [(fault, (number + half) % 4) for number, fault in enumerate(IN_A_ROUND) for half in (0, 2)],
    ids=lambda value: named(value) if isinstance(value, dict) else None,
)
async def test_the_survivors_finish_the_round_in_which_one_was_killed(
    refilled: ProcessSwarm, fault: dict[str, Any], rank: int
) -> None:
    swarm = refilled
    victim = swarm.workers[rank]
    await swarm.call(victim, "arm", signal=SIGKILL, **fault)
    round = swarm.begin()
    assert await victim.gone() == -SIGKILL
    replies = await survivors_finish(swarm, round, [victim])
    if fault["at"] == "run":
        assert victim.peer not in replies[0]["contributors"], "it had sent nothing"
    await swarm.round()


@pytest.mark.parametrize(
    ("way", "hops"),
    [("memory", (1, 4)), ("sockets", (3, 6)), ("board", (1, 3, 4, 6)), ("sealed", (2, 5))],
    ids=["memory", "sockets", "board", "sealed"],
)
async def test_the_survivors_of_kills_amid_many_chunks_hold_the_same_bytes(
    nursery: Nursery, keys: str, way: str, hops: tuple[int, ...]
) -> None:
    options: dict[str, Any] = {"share_memory": way not in ("sockets", "sealed")}
    if way == "sealed":
        options["keys"] = keys
    async with ProcessSwarm(nursery, [5_000_000], **options) as swarm:
        for hop in hops:
            await swarm.grow(4)
            await (swarm.on_a_board() if way == "board" else swarm.round())
            victim = swarm.workers[hop % 4]
            await swarm.call(victim, "arm", at="hop", hop=hop, signal=SIGKILL)
            round = swarm.begin()
            assert await victim.gone() == -SIGKILL
            await survivors_finish(swarm, round, [victim])


@pytest.mark.parametrize("fault", IN_AN_AGREEMENT, ids=named)
async def test_the_survivors_finish_the_round_if_another_dies_while_they_agree_how_it_goes_on(
    refilled: ProcessSwarm, fault: dict[str, Any], tmp_path: Path
) -> None:
    swarm = refilled
    first, *others = swarm.workers
    await swarm.call(first, "arm", at="hop", hop=3, signal=SIGKILL)
    for worker in others:
        token = str(tmp_path / "struck")
        await swarm.call(worker, "arm", at="message", signal=SIGKILL, token=token, **fault)
    round = swarm.begin()
    assert await first.gone() == -SIGKILL
    second = await first_to_die(others)
    await survivors_finish(swarm, round, [first, second])
    await swarm.round()


@pytest.mark.parametrize(
    ("lasting_swarm", "way"),
    [("open", "memory"), ("open", "board"), ("sealed", "sockets")],
    indirect=["lasting_swarm"],
    scope="module",
)
async def test_who_misses_the_result_gets_it_from_who_has_it(refilled: ProcessSwarm, way: str) -> None:
    swarm = refilled
    victim = swarm.workers[1]
    if way == "board":
        await swarm.on_a_board()
    members = (await swarm.round())[0]["members"]
    misses = members[(members.index(victim.peer) + 1) % 4]
    # It keeps back the last chunk that its right neighbour needs, until the two others have their result ...
    await swarm.call(victim, "arm", at="hop", hop=5, signal=SIGSTOP)
    round = swarm.begin()
    others = [worker for worker in swarm.workers if worker.peer not in (victim.peer, misses)]
    await round.outcomes(others)
    # ... which contains its contribution, although it never ends the round.
    victim.signal(SIGKILL)
    replies = await survivors_finish(swarm, round, [victim])
    recovered = {w.peer: r["recovered"] for w, r in zip(swarm.workers, replies, strict=True)}
    assert recovered == {w.peer: w.peer == misses for w in swarm.workers}
    assert victim.peer in replies[0]["contributors"]
