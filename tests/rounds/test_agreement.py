"""Agreement on epochs: what holds whatever is lost, killed or stopped."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from model import VirtualSwarm

from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.rounds.agreement import Agreement
from lepton_p2p.rounds.config import AgreementConfig
from lepton_p2p.rounds.effects import Installed
from lepton_p2p.rounds.epoch import Ballot, Epoch
from lepton_p2p.rounds.meeting import TOLD_AT_ONCE
from lepton_p2p.rounds.messages import Announce, Decision, Install, Leaving, Prepare, Promise, Refusal
from lepton_p2p.sansio import Emit, Send

SEEDS = int(os.environ.get("LEPTON_TEST_SEEDS", "150"))


def swarm_of(n: int, seed: int = 1) -> tuple[VirtualSwarm, list[PeerId]]:
    swarm = VirtualSwarm(seed)
    peers = [swarm.add(found=True)]
    peers += [swarm.add(found=False) for _ in range(n - 1)]
    swarm.run_until(swarm.settled)
    return swarm, peers


def rounds_done(swarm: VirtualSwarm, peer: PeerId) -> int:
    return swarm.hosts[peer].machine.progress.completed


def progress_of_all(swarm: VirtualSwarm, more: int) -> None:
    """Run until every live peer has completed ``more`` further rounds in one common epoch."""
    goal = max(rounds_done(swarm, peer) for peer in swarm.live()) + more
    swarm.run_until(lambda: swarm.settled() and all(rounds_done(swarm, peer) >= goal for peer in swarm.live()))
    swarm.check_histories()
    swarm.check_contributions()


def test_the_first_peer_founds_an_epoch_alone_and_completes_rounds() -> None:
    swarm, (peer,) = swarm_of(1)
    progress_of_all(swarm, 3)
    assert swarm.hosts[peer].machine.epoch.ids == (peer,)  # type: ignore[union-attr]


def test_joiners_enter_at_a_round_boundary_and_nobody_drops_out() -> None:
    swarm, peers = swarm_of(5)
    progress_of_all(swarm, 3)
    assert all(swarm.hosts[peer].dropped == 0 for peer in peers)


def test_peers_that_all_seek_found_one_epoch_by_the_lowest_id() -> None:
    swarm = VirtualSwarm(3)
    for _ in range(4):
        swarm.add(found=False)
    swarm.run_until(swarm.settled)
    progress_of_all(swarm, 2)


def newcomers_of_silent_seeds(swarm: VirtualSwarm, count: int) -> list[PeerId]:
    """They know each other, and of somebody else who has not answered yet."""
    peers = [swarm.add(found=False) for _ in range(count)]
    for peer in peers:
        swarm.hosts[peer].machine.unanswered = {"seed:1"}
    return peers


def test_newcomers_do_not_found_while_those_that_they_should_join_have_not_answered() -> None:
    swarm = VirtualSwarm(3)
    newcomers = newcomers_of_silent_seeds(swarm, 3)
    swarm.run(AgreementConfig.local().founding_patience * 0.9)
    assert not any(swarm.hosts[peer].machine.epoch for peer in newcomers)
    first = swarm.add(found=True)  # the one that did not answer, and introduces itself now
    swarm.run_until(swarm.settled)
    assert not any(swarm.hosts[peer].dropped for peer in (first, *newcomers)), "nobody founded in vain"


def test_newcomers_found_once_all_that_they_should_join_have_answered() -> None:
    swarm = VirtualSwarm(3)
    newcomers = newcomers_of_silent_seeds(swarm, 3)
    for peer in newcomers:
        swarm.hosts[peer].machine.unanswered.discard("seed:1")
    swarm.run_until(swarm.settled, limit=AgreementConfig.local().founding_patience * 0.5)


def test_newcomers_do_not_wait_for_ever_for_those_that_they_should_join() -> None:
    swarm = VirtualSwarm(3)
    newcomers_of_silent_seeds(swarm, 3)
    swarm.run_until(swarm.settled, limit=AgreementConfig.local().founding_patience * 2)
    progress_of_all(swarm, 2)


def test_a_kill_costs_the_survivors_no_round() -> None:
    swarm, peers = swarm_of(4)
    progress_of_all(swarm, 2)
    swarm.crash(peers[0])
    progress_of_all(swarm, 3)
    survivors = swarm.live()
    first = min(min(swarm.hosts[peer].history) for peer in survivors)
    for peer in survivors:
        history = swarm.hosts[peer].history
        assert sorted(history) == list(range(min(history), max(history) + 1)), "a round is missing"
        assert min(history) >= first
        assert swarm.hosts[peer].dropped == 0


def test_all_but_one_may_die_at_once() -> None:
    swarm, peers = swarm_of(5)
    progress_of_all(swarm, 1)
    for peer in peers[:4]:
        swarm.crash(peer)
    progress_of_all(swarm, 3)
    assert swarm.live() == peers[4:]


def test_a_stopped_peer_is_left_behind_and_comes_back_as_a_newcomer() -> None:
    swarm, peers = swarm_of(4)
    progress_of_all(swarm, 1)
    swarm.pause(peers[1], 5.0)
    swarm.run(4.0)
    assert all(len(swarm.hosts[p].machine.epoch.ids) == 3 for p in peers if p != peers[1])  # type: ignore[union-attr]
    swarm.run(1.5)
    progress_of_all(swarm, 2)
    assert swarm.hosts[peers[1]].dropped == 1
    assert all(swarm.hosts[p].dropped == 0 for p in peers if p != peers[1])


def test_two_swarms_that_started_apart_become_one() -> None:
    swarm = VirtualSwarm(5)
    swarm.add(found=True)
    swarm.add(found=True)
    swarm.run_until(swarm.settled)
    progress_of_all(swarm, 2)


def test_differing_schemas_are_rejected_for_everyone_and_the_next_round_goes_on() -> None:
    swarm = VirtualSwarm(9)
    peers = [swarm.add(found=i == 0, wants_rounds=False) for i in range(3)]
    swarm.run_until(swarm.settled)
    for peer in peers:
        swarm.hosts[peer].schema = 8 if peer == peers[2] else 7
        swarm.hand_in(peer)
        swarm.hosts[peer].rounds_wanted = True
        swarm.hand_in(peer)
        swarm.hosts[peer].rounds_wanted = False
    epoch = swarm.hosts[peers[0]].machine.epoch
    assert epoch is not None
    swarm.feed(peers[0], lambda: swarm.hosts[peers[0]].machine.broken(swarm.now, epoch.tag, "schemas differ", None))
    swarm.run_until(lambda: all(1 in swarm.hosts[peer].history for peer in peers))
    outcomes = {swarm.hosts[peer].history[1] for peer in peers}
    assert len(outcomes) == 1
    assert "differ between peers" in str(outcomes.pop())
    for peer in peers:
        swarm.hosts[peer].schema = 7
        swarm.hosts[peer].rounds_wanted = True
        swarm.hand_in(peer)
    progress_of_all(swarm, 1)


def test_a_peer_with_another_job_is_refused_and_disturbs_nobody() -> None:
    swarm = VirtualSwarm(11)
    first = swarm.add(found=True, job="a")
    second = swarm.add(found=False, job="b")
    swarm.run(5.0)
    assert swarm.hosts[first].machine.epoch.ids == (first,)  # type: ignore[union-attr]
    assert swarm.hosts[second].machine.epoch is None
    assert rounds_done(swarm, first) > 3


def test_a_leaver_is_not_waited_for() -> None:
    swarm, peers = swarm_of(3)
    machine = swarm.hosts[peers[0]].machine
    swarm.feed(peers[0], lambda: machine.leave(swarm.now, "stopped by its user"))
    swarm.hosts[peers[0]].crashed = True
    progress_of_all(swarm, 2)


def test_a_peer_that_gives_up_its_round_is_not_waited_for_until_it_has_another() -> None:
    swarm, peers = swarm_of(3)
    host = swarm.hosts[peers[0]]
    host.rounds_wanted = False
    swarm.run_until(lambda: host.machine.progress.schema is not None)
    swarm.feed(peers[0], lambda: host.machine.withdraw(swarm.now, "cancelled"))
    goal = max(rounds_done(swarm, peer) for peer in peers[1:]) + 3
    swarm.run_until(lambda: all(rounds_done(swarm, peer) >= goal for peer in peers[1:]))
    assert host.machine.epoch is None
    host.rounds_wanted = True
    swarm.hand_in(peers[0])
    progress_of_all(swarm, 2)
    assert all(swarm.hosts[peer].dropped == 0 for peer in peers[1:])


def test_a_goodbye_that_arrives_late_does_not_cost_the_sender_its_new_place() -> None:
    swarm, peers = swarm_of(3)
    progress_of_all(swarm, 1)
    host = swarm.hosts[peers[2]]
    epoch = swarm.hosts[peers[0]].machine.epoch
    assert epoch is not None
    late = Leaving(host.machine.me, "the swarm went on without this peer", epoch.number)
    swarm.feed(peers[2], lambda: host.machine.withdraw(swarm.now, "cancelled"))
    host.input += 1
    swarm.feed(peers[2], lambda: host.machine.start_round(swarm.now, host.schema))
    swarm.run_until(lambda: swarm.settled() and swarm.hosts[peers[0]].machine.epoch != epoch)
    dropped = host.dropped
    swarm.feed(peers[0], lambda: swarm.hosts[peers[0]].machine.receive(swarm.now, late))
    progress_of_all(swarm, 3)
    assert host.dropped == dropped


def test_a_promise_is_not_given_twice_with_a_departure_between() -> None:
    """The proposer would take the peer for the member that it was, one round behind, and it has nothing any more."""
    swarm, peers = swarm_of(2)
    progress_of_all(swarm, 2)
    machine = swarm.hosts[peers[1]].machine
    assert machine.epoch is not None
    if machine.progress.schema is None:
        machine.start_round(swarm.now, 7)
    ballot = Ballot(machine.epoch.ballot.counter + 5, peers[0])
    candidates = tuple(member.peer for member in machine.epoch.members)
    prepare = Prepare(swarm.hosts[peers[0]].machine.me, ballot, candidates, "a link broke")
    (promise,) = replies(machine.receive(swarm.now, prepare))
    assert isinstance(promise, Promise)
    machine.withdraw(swarm.now, "cancelled")
    machine.start_round(swarm.now, 7)
    (refusal,) = replies(machine.receive(swarm.now, prepare))
    assert isinstance(refusal, Refusal)
    assert (refusal.stranger, refusal.standing) == (True, None)
    higher = Prepare(prepare.sender, Ballot(ballot.counter + 1, peers[0]), candidates, "again")
    (promise,) = replies(machine.receive(swarm.now, higher))
    assert isinstance(promise, Promise)
    assert (promise.report.epoch, promise.report.completed) == (None, 0)


def test_a_proposal_that_comes_again_after_its_epoch_began_undoes_nothing() -> None:
    """Calls are repeated over a new connection when theirs breaks, so that any message may come twice, and late."""
    swarm, peers = swarm_of(2)
    progress_of_all(swarm, 2)
    machine, proposer = swarm.hosts[peers[1]].machine, swarm.hosts[peers[0]].machine.me
    assert machine.epoch is not None
    ballot, members = Ballot(machine.epoch.ballot.counter + 5, peers[0]), machine.epoch.members
    prepare = Prepare(proposer, ballot, tuple(member.peer for member in members), "a link broke")
    (promise,) = replies(machine.receive(swarm.now, prepare))
    assert isinstance(promise, Promise)
    done = machine.progress.completed
    decision = Decision(done, machine.progress.digest, peers, machine.progress.work)
    install = Install(proposer, Epoch(machine.epoch.number + 1, ballot, members), decision)
    machine.receive(swarm.now, install)
    if machine.progress.schema is None:
        machine.start_round(swarm.now, 7)
    machine.completed(swarm.now, machine.epoch.tag, 99, 2)
    assert machine.progress.completed == done + 1
    again = [*machine.receive(swarm.now, prepare), *machine.receive(swarm.now, install)]
    assert again == []
    assert (machine.progress.completed, machine.progress.digest) == (done + 1, 99)


def replies(effects: Sequence[object]) -> list[object]:
    return [effect.message for effect in effects if isinstance(effect, Send)]


def test_peers_that_all_gave_up_their_round_at_once_meet_again() -> None:
    swarm, peers = swarm_of(3)
    progress_of_all(swarm, 2)
    swarm.run_until(lambda: all(swarm.hosts[peer].machine.progress.schema is not None for peer in peers))
    for peer in peers:
        swarm.cancel(peer)
    swarm.run_until(swarm.settled)
    swarm.run_until(lambda: all(rounds_done(swarm, peer) >= 2 for peer in peers))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_any_history_of_mishaps_ends_in_one_epoch_with_one_history(seed: int) -> None:
    """Kills, stops, cancelled rounds, joins and lost messages at random moments; then quiet: one epoch, equal
    outcomes, progress."""
    swarm, _ = swarm_of(2 + seed % 5, seed)
    swarm.loss = swarm.rng.choice([0.0, 0.05, 0.2])
    for _ in range(12):
        swarm.run(swarm.rng.random() * 0.4)
        swarm.check_histories()
        live = [peer for peer in swarm.live() if not swarm.hosts[peer].paused]
        fate = swarm.rng.random()
        if fate < 0.35 and len(live) > 1:
            swarm.crash(swarm.rng.choice(live))
        elif fate < 0.55 and len(live) > 2:
            swarm.pause(swarm.rng.choice(live), swarm.rng.random() * 4)
        elif fate < 0.75 and live:
            for _ in range(swarm.rng.randrange(1, 5)):
                swarm.cancel(swarm.rng.choice(live))
                swarm.run(swarm.rng.random() * 0.03)
        elif len(swarm.live()) < 7:
            swarm.add(found=False)
    swarm.loss = 0.0
    swarm.run(20.0)
    if len(swarm.live()) == 1 and swarm.hosts[swarm.live()[0]].machine.epoch is None:
        swarm.add(found=True)  # everybody else died before the last joiner was admitted: it waits for a swarm
    swarm.run_until(swarm.settled, limit=120.0)
    progress_of_all(swarm, 3)


def test_a_crowd_outside_is_told_by_and_by() -> None:
    """Thousands of outsiders may be made up; to tell all of them at once would cost a connection each."""
    me = PeerInfo(PeerId("a" * 32), "10.0.0.1:7700")
    machine = Agreement(me, AgreementConfig.local(), random.Random(1))
    machine.begin(0.0, found=True)
    crowd = [PeerInfo(PeerId(f"{number:032x}"), f"10.1.0.{number}:7700") for number in range(200)]
    for peer in crowd:
        machine.alive(0.0, peer)
    told: set[str] = set()
    for second in range(500):
        effects = machine.timer(float(second), "announce")
        sends = [effect.to for effect in effects if isinstance(effect, Send)]
        assert len(sends) == TOLD_AT_ONCE
        told.update(sends)
    assert told == {peer.address for peer in crowd}


def newcomer_and_what_was_announced_to_it() -> tuple[VirtualSwarm, PeerId, Announce]:
    """A third peer has been admitted to an epoch of two; the first of them announced the epoch before just then."""
    swarm, peers = swarm_of(2)
    first = swarm.hosts[peers[0]].machine
    outside = PeerInfo(PeerId("0" * 32), "10.0.0.1:7700")
    first.alive(swarm.now, outside)
    [late] = [
        effect.message
        for effect in first.timer(swarm.now, "announce")
        if isinstance(effect, Send) and isinstance(effect.message, Announce)
    ]
    first.gone(swarm.now, outside.id, "left", left=True)
    newcomer = swarm.add(found=False)
    swarm.run_until(swarm.settled)
    swarm.run(1.0)
    return swarm, newcomer, late


@pytest.mark.parametrize("promised", [False, True], ids=["not heard of the epoch", "promised it"])
def test_what_was_announced_before_a_newcomer_was_admitted_and_comes_late_is_not_taken_for_another_lineage(
    promised: bool,
) -> None:
    swarm, newcomer, late = newcomer_and_what_was_announced_to_it()
    machine = swarm.hosts[newcomer].machine
    assert machine.epoch is not None
    assert late.standing.tag != machine.epoch.tag
    late = replace(late, promised=machine.epoch.ballot) if promised else late
    assert not machine.receive(swarm.now, late)


@pytest.mark.parametrize("says", [True, False])
def test_a_fellow_member_that_announces_another_lineage_is_told_where_the_epoch_stands(says: bool) -> None:
    swarm, newcomer, late = newcomer_and_what_was_announced_to_it()
    machine = swarm.hosts[newcomer].machine
    assert machine.epoch is not None
    since = Ballot(machine.epoch.ballot.counter + 1) if says else None
    effects = machine.receive(swarm.now, replace(late, promised=since))
    assert any(isinstance(effect, Send) and isinstance(effect.message, Prepare) for effect in effects)


def test_who_does_not_answer_a_proposal_is_asked_once_more_before_the_epoch_goes_on_without_it() -> None:
    swarm, peers = swarm_of(3)
    proposer = swarm.hosts[peers[0]].machine
    silent = swarm.hosts[peers[2]].machine.me
    now, half = swarm.now, swarm.config.promise_timeout / 2
    proposer.gone(now, peers[1], "died")
    first = [
        effect
        for effect in (*proposer.timer(now, "propose"), *proposer.timer(now + half, "promises"))
        if isinstance(effect, Send) and isinstance(effect.message, Prepare)
    ]
    assert {effect.to for effect in first} == {silent.address}
    later = proposer.timer(now + 2 * half, "promises")
    assert any(isinstance(effect, Emit) and isinstance(effect.event, Installed) for effect in later)
    assert proposer.epoch is not None
    assert proposer.epoch.ids == (peers[0],)
