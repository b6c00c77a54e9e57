"""Each invariant can break: what the oracle says when it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType

import pytest
from processes_in_memory import info

from lepton_p2p.identity import PeerId
from lepton_p2p.membership import Gossip, Packet, Rumour, Status
from lepton_p2p.replication.cursor import Cursor
from lepton_p2p.replication.notes import Note, NoteFlag
from lepton_p2p.replication.ranges import Range
from lepton_p2p.rounds import effects as fx
from lepton_p2p.rounds.epoch import Ballot, Epoch, Member
from lepton_p2p.rounds.messages import Decision
from lepton_p2p.rounds.result import RoundResult
from lepton_p2p.simulation.attempts import Sum, digest
from lepton_p2p.simulation.oracle import INVARIANTS, Oracle, Violation
from lepton_p2p.simulation.replica import State
from lepton_p2p.simulation.rounds import Kept

A, B = info(1), info(2)
EPOCH = Epoch(1, Ballot(1, A.id), (Member(A, 1), Member(B, 1)))


def breaks(name: str, call: Callable[[], object]) -> None:
    assert name in INVARIANTS
    with pytest.raises(Violation, match=f"^{name}: "):
        call()


def kept(round: int, *numbers: int, claimed: int | None = None) -> Kept:
    return Kept(round, EPOCH, Sum(numbers, claimed or digest(numbers), ()), 1)


@pytest.fixture
def oracle() -> Oracle:
    """A and B have put (1, 10) and (2, 20) into round 5."""
    oracle = Oracle()
    for who, numbers in ((A, (1, 10)), (B, (2, 20))):
        oracle.ran(who, fx.Run(EPOCH, 5, 1), numbers)
    return oracle


def test_the_sum_of_all_inputs_is_right_whoever_says_it_first(oracle: Oracle) -> None:
    oracle.decided(B, kept(5, 3, 30), recovered=False)
    oracle.decided(A, kept(5, 3, 30), recovered=True)
    assert (oracle.rounds, oracle.recovered) == (1, 1)


def test_a_sum_that_lacks_something_is_partial(oracle: Oracle) -> None:
    breaks("no-partial-result", lambda: oracle.decided(A, kept(5, 3, 10), recovered=False))


def test_a_result_without_a_members_input_is_partial(oracle: Oracle) -> None:
    oracle.ran(A, fx.Run(EPOCH, 6, 1), (1, 1))
    breaks("no-partial-result", lambda: oracle.decided(A, kept(6, 1, 1), recovered=False))


def test_two_results_of_one_round(oracle: Oracle) -> None:
    oracle.decided(A, kept(5, 3, 30), recovered=False)
    breaks("one-result-per-round", lambda: oracle.decided(B, kept(5, 3, 31), recovered=False))


def test_two_members_that_come_from_different_rounds(oracle: Oracle) -> None:
    oracle.decided(A, kept(5, 3, 30), recovered=False)
    other = Epoch(2, Ballot(9, B.id), EPOCH.members)
    oracle.ran(B, fx.Run(other, 5, 1), (9, 9))
    oracle.ran(A, fx.Run(other, 5, 1), (9, 9))
    oracle.decided(B, Kept(5, other, Sum((18, 18), digest((18, 18)), ()), 1), recovered=False)
    for who in (A, B):
        oracle.ran(who, fx.Run(EPOCH, 6, 1), (0, 0))
    oracle.decided(A, kept(6, 0, 0), recovered=False)
    breaks("one-result-per-round", lambda: oracle.decided(B, kept(6, 0, 0), recovered=False))


def test_an_epoch_that_starts_differently_for_two_members(oracle: Oracle) -> None:
    oracle.installed(A, fx.Installed(EPOCH, Decision(4, 44, (A.id,), 9)), 44)
    breaks("one-result-per-round", lambda: oracle.installed(B, fx.Installed(EPOCH, Decision(5, 55, (), 9)), 0))


def test_a_holder_that_holds_something_else(oracle: Oracle) -> None:
    breaks("one-result-per-round", lambda: oracle.installed(A, fx.Installed(EPOCH, Decision(4, 44, (A.id,), 9)), 43))


# -- replicas ------------------------------------------------------------------------------------------------

START = State((0, 0), Cursor(total=4, seed=1, batch=2, claimants=(A.id, B.id)))


def round_of(claims: dict[PeerId, tuple[Range, ...]], members: tuple[PeerId, ...] = (A.id, B.id)) -> RoundResult:
    notes = {peer: Note(NoteFlag.READY, claims.get(peer, ())).encode() for peer in members}
    return RoundResult(1, 1, 1, members, tuple(claims), (), (), (), 1.0, 1, MappingProxyType(notes))


def step(state: State, result: RoundResult) -> State:
    after = state.cursor.advance(members=result.members, contributors=result.contributors, notes=result.notes)
    claims = {peer: note.claim for peer in result.contributors if (note := Note.read(result.notes[peer]))}
    numbers = [state.contribution(peer, claim) for peer, claim in claims.items()]
    return state.apply(tuple(map(sum, zip(*numbers, strict=True))), after, result)


def test_a_whole_pass_is_accounted_for() -> None:
    oracle, result = Oracle(), round_of(dict(START.cursor.plan()))
    oracle.began(START)
    after = step(START, result)
    assert after.cursor.pass_number == 1
    for who in (A, B):
        oracle.applied(who, START, after, result)


def test_replicas_that_differ_after_the_same_rounds() -> None:
    oracle, result = Oracle(), round_of(dict(START.cursor.plan()))
    oracle.began(START)
    after = step(START, result)
    oracle.applied(A, START, after, result)
    other = State((after.numbers[0], after.numbers[1] ^ 1), after.cursor, after.history)
    breaks("bit-identical", lambda: oracle.applied(B, START, other, result))


def trail_of(*peers: PeerId, alone: bool = True) -> list[tuple[State, State, RoundResult]]:
    """Rounds of which each uses one more sample, by these; ``alone``: with no other member."""
    states, rounds = [START], []
    for place, peer in enumerate(peers):
        result = round_of({peer: (Range(place, place + 1),)}, (peer,) if alone else (A.id, B.id))
        states.append(step(states[-1], result))
        rounds.append((states[-2], states[-1], result))
    return rounds


def test_two_sides_that_both_go_on_from_a_round_of_which_each_has_a_result() -> None:
    one, two = trail_of(B.id, A.id, A.id), trail_of(B.id, B.id, B.id)
    for majority in (True, False):
        oracle = Oracle(majority=majority)
        oracle.began(START)
        for who, (before, after, result) in ((A, one[0]), (A, one[1]), (A, one[2]), (B, two[0]), (B, two[1])):
            oracle.applied(who, before, after, result)
        before, after, result = two[2]
        if majority:
            breaks("one-side-goes-on", lambda: oracle.applied(B, before, after, result))  # noqa: B023
        else:
            oracle.applied(B, before, after, result)


def test_who_goes_on_together_is_no_side() -> None:
    """B did the first step of one side and is among those who go on from the other: they know of it."""
    one, two = trail_of(A.id, A.id, A.id), trail_of(A.id, B.id, B.id, alone=False)
    oracle = Oracle(majority=True)
    oracle.began(START)
    for who in (A, B):
        for before, after, result in one:
            oracle.applied(who, before, after, result)
    for before, after, result in two:
        oracle.applied(A, before, after, result)


def test_swarms_that_are_founded_apart_go_on_apart() -> None:
    oracle = Oracle(majority=True)
    oracle.began(START)
    for before, after, result in (*trail_of(A.id, A.id), *trail_of(B.id, B.id)):
        oracle.applied(A, before, after, result)


def test_a_sample_that_is_used_twice() -> None:
    oracle, result = Oracle(), round_of({A.id: (Range(0, 2),), B.id: (Range(1, 3),)})
    oracle.began(START)
    breaks("samples-once", lambda: oracle.applied(A, START, step(START, result), result))


def test_numbers_that_are_not_those_of_the_samples() -> None:
    oracle, result = Oracle(), round_of({A.id: (Range(0, 2),)})
    oracle.began(START)
    after = step(START, result)
    wrong = State((after.numbers[0] + 1, after.numbers[1]), after.cursor, after.history)
    breaks("samples-once", lambda: oracle.applied(A, START, wrong, result))


def test_a_pass_that_ends_with_samples_left() -> None:
    oracle, result = Oracle(), round_of({A.id: (Range(0, 2),)})
    oracle.began(START)
    after = step(START, result)
    early = State(after.numbers, Cursor(total=4, seed=1, batch=2, pass_number=1), after.history)
    breaks("samples-once", lambda: oracle.applied(A, START, early, result))


def test_a_training_that_begins_anew_after_others_had_come_further() -> None:
    oracle = Oracle()
    oracle.founded(A, 1, 0)
    breaks("no-silent-restart", lambda: oracle.founded(A, 9, 4))


def test_what_goes_on_from_a_checkpoint_has_its_ledger() -> None:
    oracle, result = Oracle(), round_of(dict(START.cursor.plan()))
    oracle.began(START)
    after = step(START, result)
    oracle.applied(A, START, after, result)
    oracle.resumed(after, after.resumed())
    ready = replace(after.resumed(), cursor=replace(after.cursor, claimants=(A.id, B.id)), history=after.history)
    again = round_of(dict(ready.cursor.plan()))
    oracle.applied(B, ready, step(ready, again), again)


# -- membership ----------------------------------------------------------------------------------------------


def test_an_incarnation_that_goes_back_or_is_raised_by_others() -> None:
    oracle = Oracle()
    oracle.incarnation(A.id, 3)
    oracle.told(Packet(B, Gossip(), (Rumour(A, Status.SUSPECT, 3, B.id),)))
    breaks("incarnation", lambda: oracle.told(Packet(B, Gossip(), (Rumour(A, Status.ALIVE, 4, B.id),))))
    breaks("incarnation", lambda: oracle.incarnation(A.id, 2))
