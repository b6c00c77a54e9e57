"""SIGSTOP at every point of a round: the survivors go on; after SIGCONT the stopped peer sees that, and is one of them.

Nothing but its own silence tells that a stopped process is in trouble: its sockets stay open.
"""

from __future__ import annotations

from signal import SIGCONT, SIGSTOP
from typing import Any

import pytest
from process_swarm import ProcessSwarm

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
