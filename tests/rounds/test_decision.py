"""What a new epoch starts from: every rule of ``decide``, one by one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.rounds.decision import decide
from lepton_p2p.rounds.epoch import Ballot, Epoch, Member
from lepton_p2p.rounds.messages import Decision, Passed, Report

A, B, C, D = (PeerInfo(PeerId(letter * 32), f"host-{letter}:1") for letter in "abcd")
OLD = Epoch(3, Ballot(5, A.id), (Member(B, 1), Member(A, 1), Member(C, 4)))
BALLOT = Ballot(9, B.id)


def report(peer: PeerInfo, completed: int = 7, digest: int = 70, **more: object) -> Report:
    return Report(peer.id, OLD, completed, digest, **more)  # type: ignore[arg-type]


def decided(*reports: Report, lost: tuple[tuple[PeerId, str], ...] = ()) -> tuple[Epoch, Decision]:
    infos = {info.id: info for info in (A, B, C, D)}
    return decide(BALLOT, {r.peer: infos[r.peer] for r in reports}, {r.peer: r for r in reports}, lost, max_attempts=4)


def test_members_that_are_equally_far_run_the_pending_round_again() -> None:
    epoch, decision = decided(report(A, pending=8), report(B, pending=8), report(C))
    assert decision == Decision(7, 70, (A.id, B.id, C.id), 0)
    assert (epoch.number, epoch.ballot) == (4, BALLOT)
    assert epoch.members == OLD.members, "order and first rounds are kept"


def test_who_holds_the_last_result_is_asked_for_it_by_who_does_not() -> None:
    behind = {"work": 21, "pending": 8}
    epoch, decision = decided(report(A, 8, 80, work=24), report(B, 7, 70, **behind), report(C, 7, 70, **behind))
    assert decision == Decision(8, 80, (A.id,), 24)
    assert epoch.members == OLD.members


def test_a_member_that_the_others_went_on_without_before_it_put_anything_in_starts_anew() -> None:
    """It has no place in the result, and its caller waits for nothing that could be fetched."""
    epoch, decision = decided(report(A, 8, 80), report(B, 8, 80), report(C, 7, 70))
    assert decision.holders == (A.id, B.id)
    assert epoch.members == (Member(B, 1), Member(A, 1), Member(C, 9))


def test_a_newcomer_joins_behind_the_members_at_the_next_round() -> None:
    epoch, _ = decided(report(A), report(B), Report(D.id, None))
    assert epoch.members == (Member(B, 1), Member(A, 1), Member(D, 8))


def test_a_member_without_a_result_of_its_own_is_still_a_newcomer() -> None:
    waiting = Epoch(4, Ballot(6, A.id), (Member(A, 1), Member(D, 8)))
    epoch, _ = decided(report(A), Report(D.id, waiting, 7, 0, passed=(Passed(OLD.tag, 0), Passed(waiting.tag, 7))))
    assert epoch.number == 5
    assert epoch.members == (Member(A, 1), Member(D, 8))


def test_a_member_more_than_a_round_behind_starts_anew() -> None:
    epoch, decision = decided(report(A, 9, 90), report(B, 7, 70))
    assert epoch.members == (Member(B, 10), Member(A, 1))
    assert decision.holders == (A.id,)


def test_a_minority_that_holds_another_result_starts_anew() -> None:
    epoch, decision = decided(report(A, 7, 70), report(B, 7, 71), report(C, 7, 70))
    assert decision.holders == (A.id, C.id)
    assert {m.id: m.since for m in epoch.members} == {B.id: 8, A.id: 1, C.id: 4}


def test_a_minority_whose_input_was_made_from_another_state_starts_anew() -> None:
    epoch, decision = decided(*(report(p, pending=8, state=s) for p, s in ((A, 5), (B, 6), (C, 5))))
    assert {m.id: m.since for m in epoch.members} == {B.id: 8, A.id: 1, C.id: 4}
    assert decision.rejected == ""


def test_inputs_that_do_not_fit_together_reject_the_round_for_all() -> None:
    epoch, decision = decided(report(A, pending=8, schema=1), report(B, pending=8, schema=2), report(C))
    assert (decision.base, decision.digest, decision.holders) == (8, 0, ())
    assert "aaaaaaaa brought 0000000000000001 but bbbbbbbb brought 0000000000000002" in decision.rejected
    assert epoch.members == OLD.members


def test_a_missing_result_is_fetched_before_a_round_is_rejected() -> None:
    _, decision = decided(report(A, 8, 80, pending=9, schema=1), report(B, 7, 70, pending=8, schema=2))
    assert (decision.base, decision.rejected) == (8, "")


def test_a_round_that_breaks_every_time_is_given_up() -> None:
    _, decision = decided(report(A, pending=8, attempts=4, broken="not finite"), report(B, pending=8))
    assert (decision.base, decision.rejected) == (8, "given up after 4 attempts: not finite")


def test_a_rejection_that_some_have_installed_holds_for_the_others() -> None:
    _, decision = decided(report(A, 8, 0, rejected="differ"), report(B, pending=8, schema=2))
    assert (decision.base, decision.rejected) == (8, "differ")


def test_a_newcomer_whose_first_round_was_rejected_starts_at_the_next() -> None:
    fresh = Epoch(4, Ballot(6, A.id), (Member(A, 1), Member(D, 8)))
    pending = {"pending": 8, "schema": 2}
    epoch, decision = decided(
        report(A, pending=8, schema=1),
        Report(D.id, fresh, 7, 0, passed=(Passed(OLD.tag, 0), Passed(fresh.tag, 7)), **pending),
    )  # type: ignore[arg-type]
    assert decision.rejected
    assert epoch.members == (Member(A, 1), Member(D, 9))


def test_a_newcomer_in_its_first_round_does_not_wait_for_a_result_that_nobody_holds() -> None:
    """Who held it is gone, and the others are newcomers themselves, to the round after it."""
    first = Epoch(4, Ballot(6, A.id), (Member(A, 1), Member(D, 8)))
    later = Epoch(5, Ballot(7, A.id), (Member(A, 1), Member(D, 8), Member(C, 9)))
    epoch, decision = decided(
        Report(D.id, first, 7, 0, pending=8),
        Report(C.id, later, 8, 0, passed=(Passed(first.tag, 7), Passed(later.tag, 8))),
    )
    assert decision == Decision(8, 0, (), 0)
    assert {member.id: member.since for member in epoch.members} == {D.id: 9, C.id: 9}


def test_founders_have_nothing_to_fetch() -> None:
    first = Epoch(1, Ballot(1, A.id), (Member(A, 1),))
    epoch, decision = decided(Report(A.id, first), Report(B.id, None))
    assert decision == Decision(0, 0, (), 0)
    assert epoch.members == (Member(A, 1), Member(B, 1))


def test_who_was_lost_is_passed_on() -> None:
    _, decision = decided(report(A), lost=((C.id, "nobody answers"),))
    assert decision.lost == ((C.id, "nobody answers"),)


histories = st.lists(st.tuples(st.sampled_from((A, B, C)), st.integers(6, 7)), min_size=1, unique_by=lambda t: t[0].id)


def two_sides(*, majority: bool) -> tuple[Epoch, Decision]:
    """C, cut off from A and B with the result of the round that was under way, has seen more work than they have."""
    side, alone = Epoch(4, Ballot(6, A.id), (Member(A, 1), Member(B, 1))), Epoch(4, Ballot(6, C.id), (Member(C, 4),))
    voters = (frozenset({A.id, B.id, C.id}),)
    went_on = {"passed": (Passed(OLD.tag, 4), Passed(side.tag, 7)), "electorates": voters, "work": 25}
    behind = {"passed": (Passed(OLD.tag, 4), Passed(alone.tag, 8)), "electorates": voters, "work": 26}
    reports = (
        Report(A.id, side, 8, 80, **went_on),  # type: ignore[arg-type]
        Report(B.id, side, 8, 80, **went_on),  # type: ignore[arg-type]
        Report(C.id, alone, 8, 81, **behind),  # type: ignore[arg-type]
    )
    infos = {info.id: info for info in (A, B, C)}
    return decide(BALLOT, infos, {r.peer: r for r in reports}, (), max_attempts=4, majority=majority)


def test_the_side_with_the_majority_prevails_whatever_the_others_have_done() -> None:
    assert two_sides(majority=False)[1].brought == (A.id, B.id)
    _, decision = two_sides(majority=True)
    assert decision.brought == (C.id,)
    assert decision.holders == (A.id, B.id)
    assert decision.electorates[-1] == frozenset({A.id, B.id, C.id})


@given(histories, st.randoms(use_true_random=False))
def test_the_order_of_the_reports_does_not_matter(history: list[tuple[PeerInfo, int]], rng: object) -> None:
    reports = [report(peer, completed, completed * 10, pending=completed + 1) for peer, completed in history]
    shuffled = list(reports)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    assert decided(*reports) == decided(*shuffled)


@given(histories)
def test_nobody_who_is_at_most_one_round_behind_is_left_out(history: list[tuple[PeerInfo, int]]) -> None:
    reports = (report(peer, completed, completed * 10, pending=completed + 1) for peer, completed in history)
    epoch, decision = decided(*reports)
    assert decision.base == max(completed for _, completed in history)
    assert set(decision.holders) == {peer.id for peer, completed in history if completed == decision.base}
    assert all(member.since <= 7 for member in epoch.members)
