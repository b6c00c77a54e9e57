"""Two lineages that meet become one: the heavier prevails, the other's members bring in what they did."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model import VirtualSwarm

from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.rounds.decision import decide
from lepton_p2p.rounds.epoch import Ballot, Epoch, Member
from lepton_p2p.rounds.messages import Decision, Report, Standing

SEEDS = int(os.environ.get("LEPTON_TEST_SEEDS", "150"))
A, B, C, D = (PeerInfo(PeerId(letter * 32), f"host-{letter}:1") for letter in "abcd")
ONE = Epoch(5, Ballot(5, A.id), (Member(A, 1), Member(B, 1)))
OTHER = Epoch(9, Ballot(7, C.id), (Member(C, 2), Member(D, 1)))
BALLOT = Ballot(9, B.id)


def own(peer: PeerInfo, **more: object) -> Report:
    return Report(peer.id, ONE, 8, 80, work=20, **more)  # type: ignore[arg-type]


def foreign(peer: PeerInfo, completed: int = 7, digest: int = 70, work: int = 15, **more: object) -> Report:
    return Report(peer.id, OTHER, completed, digest, work=work, **more)  # type: ignore[arg-type]


def decided(*reports: Report) -> tuple[Epoch, Decision]:
    infos = {info.id: info for info in (A, B, C, D)}
    return decide(BALLOT, {r.peer: infos[r.peer] for r in reports}, {r.peer: r for r in reports}, max_attempts=4)


def test_members_of_the_lighter_lineage_become_newcomers() -> None:
    epoch, decision = decided(own(A), own(B), foreign(C), foreign(D))
    assert decision == Decision(8, 80, (A.id, B.id), 20, brought=(C.id, D.id))
    assert epoch.number == 10, "above both"
    assert epoch.members == (Member(A, 1), Member(B, 1), Member(C, 9), Member(D, 9))


def test_the_proposers_lineage_becomes_part_of_a_heavier_one() -> None:
    epoch, decision = decided(own(A), own(B), foreign(C, work=900), foreign(D, work=900))
    assert decision == Decision(7, 70, (C.id, D.id), 900, brought=(A.id, B.id))
    assert epoch.members == (Member(C, 2), Member(D, 1), Member(A, 8), Member(B, 8))


def test_round_numbers_of_two_lineages_have_nothing_to_do_with_each_other() -> None:
    """Who waits for round 8 of its own lineage must not be given the other's round 8 for it."""
    epoch, decision = decided(own(A), own(B), foreign(C, 7, 70, pending=8), foreign(D, 8, 81))
    assert decision.holders == (A.id, B.id)
    assert {member.id: member.since for member in epoch.members} == {A.id: 1, B.id: 1, C.id: 9, D.id: 9}


def test_a_hollow_lineage_does_not_prevail_however_large() -> None:
    _, decision = decided(own(A), *(Report(p.id, OTHER, 30, 300) for p in (B, C, D)))
    assert decision.brought == (B.id, C.id, D.id)


def test_what_was_not_begun_in_any_lineage_is_no_other_lineage() -> None:
    _, decision = decided(own(A), Report(C.id, None), Report(D.id, None))
    assert decision.brought == ()


counts = st.integers(0, 30)


@st.composite
def standings(draw: st.DrawFn) -> Standing:
    origin = draw(counts)
    return Standing(draw(counts), origin + draw(counts), draw(counts), draw(st.integers(1, 2**64 - 1)), origin)


@given(standings(), standings())
def test_of_two_lineages_exactly_one_is_lighter(one: Standing, two: Standing) -> None:
    if one.tag != two.tag:
        assert one.lighter_than(two) != two.lighter_than(one)
    if one.lighter_than(two) and not one.hollow_beside(two):
        assert one.work <= two.work


def split(swarm: VirtualSwarm, left: list[PeerId], right: list[PeerId]) -> None:
    swarm.cut |= {pair for one in left for other in right for pair in ((one, other), (other, one))}
    for one in left:
        for other in right:
            for here, gone in ((one, other), (other, one)):
                machine = swarm.hosts[here].machine
                swarm.feed(here, lambda machine=machine, gone=gone: machine.gone(swarm.now, gone, "cut off"))  # type: ignore[misc]


def heal(swarm: VirtualSwarm) -> None:
    swarm.cut.clear()
    for one in swarm.live():
        for other in swarm.live():
            if one < other:
                swarm.introduce(one, other)


def begun(seed: int, peers: int) -> tuple[VirtualSwarm, list[PeerId]]:
    swarm = VirtualSwarm(seed)
    members = [swarm.add(found=index == 0) for index in range(peers)]
    swarm.run_until(lambda: swarm.settled() and work_of(swarm, members[0]) > 5)
    return swarm, members


def work_of(swarm: VirtualSwarm, peer: PeerId) -> int:
    return swarm.hosts[peer].machine.progress.work


def test_when_a_split_swarm_meets_each_of_the_lighter_side_is_dropped_once_and_nobody_else() -> None:
    swarm, peers = begun(3, 5)
    split(swarm, peers[:3], peers[3:])
    swarm.run(2.0)
    assert all(swarm.hosts[peer].machine.epoch is not None for peer in peers)
    works = {peer: work_of(swarm, peer) for peer in peers}
    heal(swarm)
    swarm.run_until(swarm.settled)
    swarm.run(1.0)
    heavier = peers[:3] if works[peers[0]] > works[peers[3]] else peers[3:]
    assert {peer: swarm.hosts[peer].dropped for peer in peers} == {peer: int(peer not in heavier) for peer in peers}
    swarm.check_histories()
    swarm.check_contributions()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_split_again_and_again_with_losses_and_crashes_all_end_in_one_lineage(seed: int) -> None:
    swarm, _ = begun(seed, 6)
    swarm.loss = swarm.rng.choice([0.0, 0.05, 0.2])
    for _ in range(swarm.rng.randint(1, 5)):
        live = swarm.live()
        left = swarm.rng.sample(live, swarm.rng.randint(1, len(live) - 1))
        split(swarm, left, [peer for peer in live if peer not in left])
        swarm.run(3 * swarm.rng.random())
        if swarm.rng.random() < 0.3 and len(live) > 2:
            swarm.crash(swarm.rng.choice(live))
        if swarm.rng.random() < 0.2:
            swarm.pause(swarm.rng.choice(swarm.live()), 4 * swarm.rng.random())
        heal(swarm)
        swarm.run(3 * swarm.rng.random())
        swarm.check_histories()
    swarm.loss = 0.0
    swarm.run(5.0)
    heal(swarm)
    swarm.run_until(swarm.settled, limit=120.0)
    goal = max(swarm.hosts[peer].machine.progress.completed for peer in swarm.live()) + 2
    swarm.run_until(lambda: all(swarm.hosts[peer].machine.progress.completed >= goal for peer in swarm.live()))
    swarm.check_histories()
    swarm.check_contributions()
