"""More than one dies: at once, one while the others recover from another's death, all but one; no sample is lost.

One death at exact points of a round and of the agreement after it: ``tests/processes/test_kill_points.py``; of a donor:
``test_joining.py``; of all: ``test_durable_swarms.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from signal import SIGKILL, SIGUSR2

from jobs_for_peers import tally_job, wide_job
from peer_processes import PeerProcess, TrainingSwarm
from samples import count_passes, merged

HOOKS = {"weights_every": 10}


async def training(swarm: TrainingSwarm, count: int) -> list[PeerProcess]:
    """So many peers that train a job in which each sample shows."""
    job = ("--job", str(tally_job(swarm.folder, steps=1_000_000)))
    first = await swarm.start(*job, hooks=HOOKS)
    others = [await swarm.start(*job, "--join", first.address, hooks=HOOKS) for _ in range(count - 1)]
    await swarm.together([first, *others])
    await swarm.trained(swarm.peers, 10)
    return [first, *others]


async def dead(swarm: TrainingSwarm, peers: Sequence[PeerProcess]) -> None:
    await swarm.until("they are dead", lambda: not any(peer.running for peer in peers))


async def all_is_well(swarm: TrainingSwarm, survivors: Sequence[PeerProcess]) -> None:
    """The survivors train on, and every sample of every pass was used once, before and after."""
    await swarm.trained(survivors, 80)
    members = {peer[:8] for peer in survivors[0].rounds[survivors[0].last_round]["shared"]["members"]}
    assert members == {peer.id for peer in survivors}
    for peer in survivors:
        await swarm.stop(peer)
    assert count_passes(merged(swarm.peers)) >= 1


async def test_two_die_at_once(swarm: TrainingSwarm) -> None:
    peers = await training(swarm, 5)
    for peer in peers[:2]:
        peer.signal(SIGKILL)
    await dead(swarm, peers[:2])
    await all_is_well(swarm, peers[2:])


async def test_another_one_dies_while_the_others_recover(swarm: TrainingSwarm) -> None:
    first, second, *survivors = await training(swarm, 4)
    first.signal(SIGKILL)
    await swarm.until("somebody notices", lambda: any("a round broke" in peer.log for peer in (second, *survivors)))
    second.signal(SIGKILL)
    await dead(swarm, [first, second])
    await all_is_well(swarm, survivors)


async def test_all_but_one_die_at_once_and_newcomers_find_the_last_one(swarm: TrainingSwarm) -> None:
    *victims, last = await training(swarm, 4)
    for peer in victims:
        peer.signal(SIGKILL)
    await dead(swarm, victims)
    await swarm.trained([last], 40)
    job = ("--job", str(swarm.folder / "train.py"))
    newcomers = [await swarm.start(*job, "--join", last.address, hooks=HOOKS) for _ in range(2)]
    await swarm.together([last, *newcomers])
    await all_is_well(swarm, [last, *newcomers])


async def test_two_of_three_donors_die_while_a_joiner_pulls_the_state(swarm: TrainingSwarm) -> None:
    first = await swarm.start("--job", str(wide_job(swarm.folder)))
    donors = []
    for _ in range(2):
        hooks = {"die_after_chunks": 1, "count_after_signal": 1}  # of 16, of which the quick ones give most
        donors.append(await swarm.start("--join", first.address, hooks=hooks))
        await swarm.together([first, *donors])
    for donor in donors:
        donor.signal(SIGUSR2)
    await swarm.until("they count", lambda: all(donor.armed for donor in donors))
    joiner = await swarm.start("--join", first.address)
    await dead(swarm, donors)
    await swarm.together([first, joiner])
    await swarm.trained([first, joiner], 3)
    assert joiner.log.count("a donor is gone; fetching from the others") == 2
    assert joiner.log.count("fetching the state") == 1, "what was begun was completed, from the last of the three"
    assert "caught up" in joiner.log
    merged(swarm.peers)
