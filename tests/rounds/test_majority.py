"""Policy majority: of a split swarm one side at most goes on, so that there is one history, and nothing to unite."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model import VirtualSwarm
from test_uniting import heal, split, work_of

from lepton_p2p.identity import PeerId
from lepton_p2p.rounds import effects as fx
from lepton_p2p.rounds.electorate import carries, succeed, without

SEEDS = int(os.environ.get("LEPTON_TEST_SEEDS", "150"))
peers = st.integers(0, 7).map(lambda number: PeerId(f"{number:032x}"))
sets = st.frozensets(peers)


@given(st.lists(sets.filter(bool), min_size=1, max_size=4), st.lists(peers, unique=True, min_size=1), st.data())
def test_of_two_disjoint_parts_one_at_most_carries(
    electorates: list[frozenset[PeerId]], everybody: list[PeerId], data: st.DataObject
) -> None:
    left = data.draw(st.frozensets(st.sampled_from(everybody)))
    right = frozenset(everybody) - left
    assert not (carries(left, electorates) and carries(right, electorates))


@given(sets.filter(bool))
def test_who_is_all_there_carries_and_of_two_halves_the_one_with_the_first(everybody: frozenset[PeerId]) -> None:
    assert carries(everybody, [everybody])
    assert not carries((), [everybody])
    half = sorted(everybody)[: len(everybody) // 2]
    assert carries(half, [everybody]) == (len(everybody) % 2 == 0)


@given(st.lists(sets.filter(bool), max_size=3), sets.filter(bool))
def test_members_have_a_say_besides_those_before_them_only_if_they_carry(
    before: list[frozenset[PeerId]], members: frozenset[PeerId]
) -> None:
    after = succeed(tuple(before), members)
    assert set(before) <= set(after)
    assert (members in after) == (carries(members, before) or members in before)


@given(st.lists(sets.filter(bool), max_size=3), peers)
def test_who_has_left_is_asked_no_more(electorates: list[frozenset[PeerId]], gone: PeerId) -> None:
    assert not any(gone in one for one in without(electorates, gone))


def begun(seed: int, count: int) -> tuple[VirtualSwarm, list[PeerId]]:
    swarm = VirtualSwarm(seed)
    members = [swarm.add(found=index == 0, majority=True) for index in range(count)]
    swarm.run_until(swarm.settled)
    goal = max(work_of(swarm, peer) for peer in members) + 2 * count  # a round of all, who have the say from then on
    swarm.run_until(lambda: swarm.settled() and all(work_of(swarm, peer) > goal for peer in members))
    return swarm, members


def test_the_smaller_side_waits_and_loses_nothing() -> None:
    swarm, members = begun(3, 5)
    split(swarm, members[:3], members[3:])
    swarm.run(3.0)
    stood = {peer: swarm.hosts[peer].machine.progress.completed for peer in members}
    swarm.run(3.0)
    went_on = [peer for peer in members if swarm.hosts[peer].machine.progress.completed > stood[peer]]
    assert went_on == members[:3]
    assert all(swarm.hosts[peer].machine.paused for peer in members[3:])
    assert all(swarm.hosts[peer].machine.progress.schema is not None for peer in members[3:]), "callers wait"
    heal(swarm)
    swarm.run_until(swarm.settled)
    assert all(swarm.hosts[peer].dropped == 0 for peer in members[:3])
    assert not any(swarm.hosts[peer].machine.paused for peer in members)


def test_what_is_left_after_one_death_after_the_other_goes_on_to_the_last() -> None:
    swarm, members = begun(4, 5)
    for peer in sorted(members, reverse=True)[:-1]:
        swarm.crash(peer)
        swarm.run_until(swarm.settled)
        goal = max(swarm.hosts[other].machine.progress.completed for other in swarm.live()) + 2
        swarm.run_until(
            lambda goal=goal: all(swarm.hosts[p].machine.progress.completed >= goal for p in swarm.live())  # type: ignore[misc]
        )


def test_who_leaves_in_good_order_is_not_waited_for() -> None:
    swarm, members = begun(5, 2)
    first, second = sorted(members)
    machine = swarm.hosts[first].machine
    swarm.feed(first, lambda: machine.leave(swarm.now, "its user stopped it"))
    swarm.hosts[first].crashed = True
    before = swarm.hosts[second].machine.progress.completed
    swarm.run(3.0)
    assert swarm.hosts[second].machine.progress.completed > before


def test_who_drops_out_of_the_majority_does_not_make_one_of_those_that_wait() -> None:
    """Three of five go on, and have the say from then on.  One of them drops out and meets the two that wait, who do
    not know that.  Together they would be three of five, but of those three it is one.
    """
    swarm, members = begun(3, 5)
    going, waiting = members[:3], members[3:]
    split(swarm, going, waiting)
    swarm.run(3.0)
    changes = going.pop()
    swarm.run_until(lambda: swarm.hosts[changes].machine.progress.schema is not None)
    swarm.cancel(changes)
    assert swarm.hosts[changes].machine.epoch is None
    split(swarm, going, [changes])
    swarm.cut -= {pair for pair in swarm.cut if changes in pair and not set(going) & set(pair)}
    for other in waiting:
        swarm.introduce(changes, other)
    swarm.run(6.0)
    assert {swarm.hosts[changes].machine.epoch} == {swarm.hosts[peer].machine.epoch for peer in waiting} != {None}
    assert all(swarm.hosts[peer].machine.paused for peer in (changes, *waiting))
    stood = swarm.hosts[going[0]].machine.progress.completed
    swarm.run(2.0)
    assert all(swarm.hosts[peer].machine.progress.completed > stood + 2 for peer in going)


def test_three_sides_of_which_none_has_the_majority_go_on_when_two_of_them_meet() -> None:
    swarm, members = begun(6, 6)
    one, two, three = members[:2], members[2:4], members[4:]
    for left, right in ((one, two), (one, three), (two, three)):
        split(swarm, left, right)
    swarm.run(4.0)
    assert all(swarm.hosts[peer].machine.paused for peer in members)
    swarm.cut = {pair for pair in swarm.cut if set(pair) & set(three)}
    for left in one:
        for right in two:
            swarm.introduce(left, right)
    stood = swarm.hosts[one[0]].machine.progress.completed
    swarm.run(6.0)
    assert all(swarm.hosts[peer].machine.progress.completed > stood + 2 for peer in (*one, *two))
    assert all(swarm.hosts[peer].machine.paused for peer in three)


def test_a_paused_side_says_so_once() -> None:
    swarm, members = begun(7, 3)
    told: list[fx.Paused] = []
    hear = swarm._event

    def listen(peer: PeerId, host: object, event: object) -> None:
        if isinstance(event, fx.Paused):
            told.append(event)
        hear(peer, host, event)  # type: ignore[arg-type]

    swarm._event = listen  # type: ignore[method-assign, assignment]
    split(swarm, members[:1], members[1:])
    swarm.run(4.0)
    assert told == [fx.Paused(1, 3)]


@pytest.mark.parametrize("seed", range(SEEDS))
def test_one_side_goes_on_whatever_is_cut_lost_killed_or_stopped(seed: int) -> None:
    """Of a round that was under way at a split both sides may have a result; one side only does another on top."""
    swarm, _ = begun(seed, 6)
    continued: dict[int, object] = {}
    keep = swarm._keep

    def record(peer: PeerId, round: int, result: object) -> None:
        before = swarm.hosts[peer].history.get(round - 1)
        if before is not None:
            assert continued.setdefault(round - 1, before) == before, f"two sides went on from round {round - 1}"
        keep(peer, round, result)  # type: ignore[arg-type]

    swarm._keep = record  # type: ignore[method-assign, assignment]
    swarm.loss = swarm.rng.choice([0.0, 0.05, 0.2])
    kills = 0
    for _ in range(swarm.rng.randint(2, 6)):
        live = swarm.live()
        left = swarm.rng.sample(live, swarm.rng.randint(1, len(live) - 1))
        split(swarm, left, [peer for peer in live if peer not in left])
        swarm.run(3 * swarm.rng.random())
        if swarm.rng.random() < 0.3 and kills < 2:
            swarm.crash(swarm.rng.choice(live))
            kills += 1
        if swarm.rng.random() < 0.2:
            swarm.pause(swarm.rng.choice(swarm.live()), 4 * swarm.rng.random())
        if swarm.rng.random() < 0.7:
            heal(swarm)
        if swarm.rng.random() < 0.3 and not swarm.cut:  # who reaches nobody founds another swarm
            swarm.add(found=False, majority=True)
        swarm.run(3 * swarm.rng.random())
        swarm.check_histories()
    swarm.loss = 0.0
    swarm.run(5.0)
    heal(swarm)
    if kills == 0:
        swarm.run_until(swarm.settled, limit=120.0)
        goal = max(swarm.hosts[peer].machine.progress.completed for peer in swarm.live()) + 2
        swarm.run_until(lambda: all(swarm.hosts[p].machine.progress.completed >= goal for p in swarm.live()))
    swarm.run(10.0)
    swarm.check_histories()
    swarm.check_contributions()
