"""Bad numbers and tensors that do not fit: refused, named, and nobody's tensors suffer."""

from __future__ import annotations

import math

import pytest
from process_swarm import ProcessSwarm


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf], ids=["nan", "inf", "minus-inf"])
async def test_a_peer_with_bad_numbers_counts_for_nothing_and_gets_the_same_bytes(
    refilled: ProcessSwarm, bad: float
) -> None:
    swarm = refilled
    sinner = swarm.workers[1]
    round = swarm.begin({sinner.peer: {"bad": bad}})
    replies = await round.outcomes(swarm.workers)
    round.check(replies)
    assert replies[0]["refused"] == [sinner.peer]
    assert set(replies[0]["contributors"]) == {worker.peer for worker in swarm.without(sinner).workers}
    assert replies[0]["attempts"] == 1
    await swarm.round()


async def test_bad_numbers_everywhere_make_a_mean_of_zero(refilled: ProcessSwarm) -> None:
    swarm = refilled
    round = swarm.begin({worker.peer: {"bad": math.nan} for worker in swarm.workers})
    replies = await round.outcomes(swarm.workers)
    assert {reply["contributors"] == [] and len(reply["refused"]) for reply in replies} == {4}
    assert len({reply["values"] for reply in replies}) == 1
    await swarm.round()


async def test_tensors_of_another_shape_are_an_error_for_all_and_change_nothing(refilled: ProcessSwarm) -> None:
    swarm = refilled
    odd = swarm.workers[2]
    round = swarm.begin({odd.peer: {"sizes": [*swarm.sizes[:-1], swarm.sizes[-1] + 1]}})
    for reply in await round.outcomes(swarm.workers):
        assert reply["error"] == "SchemaMismatch", reply
        assert odd.peer[:8] in reply["message"]
        assert reply["unchanged"]
    await swarm.round()


async def test_a_peer_whose_state_differs_is_told_so_and_the_others_go_on(refilled: ProcessSwarm) -> None:
    swarm = refilled
    await swarm.round()
    odd, *others = swarm.workers
    round = swarm.begin({worker.peer: {"state": 8 if worker is odd else 7} for worker in swarm.workers})
    (told,) = await round.outcomes([odd])
    assert told["error"] == "Dropped"
    assert told["unchanged"]
    # It is in the same epoch, as a newcomer: the others' round waits for what it brings now.
    reply = await swarm.call(odd, "all_reduce", seed=0, weight=0, sizes=swarm.sizes)
    replies = await round.outcomes(others)
    round.check(replies)
    assert reply["values"] == replies[0]["values"]
    assert reply["newcomers"] == [odd.peer]
    assert set(replies[0]["contributors"]) == {worker.peer for worker in others}
    await swarm.round()


async def test_a_partial_sum_that_is_not_finite_breaks_the_round_and_names_the_link(refilled: ProcessSwarm) -> None:
    swarm = refilled
    before = (await swarm.round())[0]
    members = before["members"]
    ill = swarm.workers[0]
    right = next(w for w in swarm.workers if w.peer == members[(members.index(ill.peer) + 1) % 4])
    await swarm.call(ill, "arm", at="infect")
    round = swarm.begin()
    replies = await round.outcomes(swarm.workers)
    round.check(replies)
    assert set(replies[0]["contributors"]) == {worker.peer for worker in swarm.workers}, "all of them are well again"
    assert replies[0]["attempts"] > 1
    assert f"{ill.peer[:8]} sent a partial result that is not finite" in swarm.nursery.log(right)
    await swarm.round()
