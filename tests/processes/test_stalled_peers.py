"""SIGSTOP at every point of a round: the survivors go on; after SIGCONT the stopped peer sees that, and is one of them.

Nothing but its own silence tells that a stopped process is in trouble: its sockets stay open.
"""

from __future__ import annotations

from signal import SIGCONT, SIGKILL, SIGSTOP
from typing import Any

import pytest
from process_swarm import Nursery, ProcessSwarm

POINTS: list[tuple[dict[str, Any], int]] = [
    ({"at": "run"}, 0),
    *(({"at": "hop", "hop": hop}, hop % 4) for hop in range(1, 7)),
]


@pytest.mark.parametrize(
    ("fault", "rank"), POINTS, ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else None
)
async def test_a_stopped_peer_is_left_behind_hears_of_it_and_comes_back(
    refilled: ProcessSwarm, fault: dict[str, Any], rank: int
) -> None:
    swarm = refilled
    stopped = swarm.workers[rank]
    others = [worker for worker in swarm.workers if worker is not stopped]
    await swarm.call(stopped, "arm", signal=SIGSTOP, **fault)
    round = swarm.begin()
    replies = await round.outcomes(others)
    round.check(replies)
    assert stopped.peer in [peer for peer, _ in replies[0]["lost"]] or stopped.peer in replies[0]["members"]
    await swarm.without(stopped).round()
    stopped.signal(SIGCONT)
    (late,) = await round.outcomes([stopped])
    if "error" not in late:
        # All bytes of the result were on their way to it when it was stopped.  Nobody else has that result; so the
        # next call says that the swarm went on.
        round.check([late])
        late = await swarm.call(stopped, "all_reduce", seed=0, sizes=swarm.sizes)
    assert late["error"] == "Dropped"
    assert late["unchanged"], "a round without a result changes nobody's tensors"
    await swarm.settle()
    await swarm.round()


@pytest.mark.parametrize("hop", [2, 5])
async def test_a_peer_that_was_stopped_amid_a_round_in_common_memory_spoils_nothing(nursery: Nursery, hop: int) -> None:
    async with ProcessSwarm(nursery, [3_000_000]) as swarm:
        await swarm.grow(4)
        await swarm.on_a_board()
        stopped = swarm.workers[hop % 4]
        rest = swarm.without(stopped)
        await swarm.call(stopped, "arm", at="hop", hop=hop, signal=SIGSTOP)
        round = swarm.begin()
        replies = await round.outcomes(rest.workers)
        round.check(replies)
        stopped.signal(SIGCONT)
        (late,) = await round.outcomes([stopped])
        assert late.get("error") == "Dropped" or late["values"] == replies[0]["values"]
        for worker in rest.workers:
            assert (await swarm.call(worker, "kept"))["intact"], "it wrote into what the others keep"
        stopped.signal(SIGKILL)
        await stopped.gone()
        swarm.bury(stopped)
        await swarm.settle()
        await swarm.on_a_board()
