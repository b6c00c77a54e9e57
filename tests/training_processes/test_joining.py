"""Joining: a newcomer gets the state from several members while they go on training, and is bit-identical then."""

from __future__ import annotations

import asyncio
from signal import SIGCONT, SIGKILL, SIGSTOP

from jobs_for_peers import small_job, tally_job, wide_job
from peer_processes import DEADLINE, PeerProcess, TrainingSwarm, status_of
from samples import merged


async def members(swarm: TrainingSwarm, count: int) -> list[PeerProcess]:
    """So many peers that train the wide job; they joined one after the other, by --join alone."""
    first = await swarm.start("--job", str(wide_job(swarm.folder)))
    peers = [first]
    while len(peers) < count:
        peers.append(await swarm.start("--join", peers[-1].address))
        await swarm.together(peers)
    return peers


def rounds_of_the_others(joiner: PeerProcess, others: list[PeerProcess]) -> int:
    """In how many rounds ``joiner`` was a member already and only the others had samples."""
    names = {peer.id for peer in others}
    found = 0
    for entry in joiner.since(0):
        contributors = {peer[:8] for peer in entry["shared"]["contributors"]}
        if joiner.id in contributors:
            break
        assert contributors, "the others train on"
        found += contributors <= names
    return found


async def test_a_joiner_fetches_from_all_members_while_they_train(swarm: TrainingSwarm) -> None:
    others = await members(swarm, 3)
    before = {peer.name: len(peer.served) for peer in others}
    joiner = await swarm.start("--join", others[1].address)
    await swarm.together([*others, joiner])
    await swarm.trained(swarm.peers, 3)

    assert rounds_of_the_others(joiner, others) >= 2
    donors = [peer.name for peer in others if len(peer.served) > before[peer.name]]
    assert len(donors) > 1, f"only {donors} gave chunks"
    assert "caught up" in joiner.log
    merged(swarm.peers)


async def test_a_donor_is_killed_in_the_middle_of_the_transfer(swarm: TrainingSwarm) -> None:
    others = await members(swarm, 2)
    donor = await swarm.start("--join", others[0].address, hooks={"die_after_chunks": 2})
    await swarm.together([*others, donor])
    joiner = await swarm.start("--join", donor.address)
    await swarm.until("the donor is dead", lambda: not donor.running)
    assert donor.status == -SIGKILL
    assert not joiner.established, "the transfer was not over"
    await swarm.together([*others, joiner])
    await swarm.trained([*others, joiner], 3)
    merged(swarm.peers)


async def test_a_peer_that_comes_when_all_is_done_gets_the_final_state(swarm: TrainingSwarm) -> None:
    first = await swarm.start("--job", str(small_job(swarm.folder, steps=30)))
    await swarm.done([first])
    late = await swarm.start("--join", first.address)
    await swarm.done([first, late])
    assert first.final is not None
    assert first.final["step"] == 30
    later = await swarm.start("--join", late.address, "--exit-when-done")
    await swarm.until("it has left by itself", lambda: not later.running)
    assert later.status == 0
    await swarm.done([first, late, later])


async def test_newcomers_that_see_only_each_other_wait_for_the_swarm(swarm: TrainingSwarm) -> None:
    job = ("--job", str(tally_job(swarm.folder, steps=1_000_000)))
    first = await swarm.start(*job)
    await swarm.trained([first], 5)
    first.signal(SIGSTOP)  # as it is on a machine that has too much to do
    patient = (*job, "--agreement", "founding_patience=100")
    one = await swarm.start(*patient, "--join", first.address)
    two = await swarm.start(*patient, "--join", f"{first.address},{one.address}")
    for newcomer in (one, two):
        await swarm.until("its seed is silent", lambda newcomer=newcomer: "a seed does not answer" in newcomer.log)
    async with asyncio.timeout(DEADLINE):
        while two.id not in {member.peer.id[:8] for member in (await status_of(one)).members}:
            pass  # until they see each other; every look is a call
    first.signal(SIGCONT)
    await swarm.together([first, one, two])
    await swarm.trained(swarm.peers, 3)
    assert not any("founds one" in newcomer.log for newcomer in (one, two))
    assert first.rounds.keys() >= one.rounds.keys() | two.rounds.keys(), "nobody trained without it"
    merged(swarm.peers)
