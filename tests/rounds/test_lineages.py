"""Who is of one lineage: what reports say of the epochs behind them."""

from __future__ import annotations

from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.rounds.decision import decide
from lepton_p2p.rounds.epoch import Ballot, Epoch, Member
from lepton_p2p.rounds.lineages import lineages_of
from lepton_p2p.rounds.messages import Passed, Report

A, B, C, D = (PeerInfo(PeerId(letter * 32), f"host-{letter}:1") for letter in "abcd")


def epoch(number: int, proposer: PeerInfo, *members: PeerInfo) -> Epoch:
    return Epoch(number, Ballot(number, proposer.id), tuple(Member(peer, 1) for peer in members))


FIRST = epoch(3, A, A, B, C, D)
LEFT, RIGHT = epoch(4, A, A, B), epoch(4, C, C, D)


def at(peer: PeerInfo, where: Epoch, *passed: Epoch, completed: int = 7, work: int = 20) -> Report:
    """The first of the epochs began after round 0, all others after round 7."""
    through = tuple(Passed(one.tag, 7 if index else 0) for index, one in enumerate((*passed, where)))
    return Report(peer.id, where, completed, 10 * completed, work=work, passed=through)


def found(*reports: Report) -> dict[int, list[PeerId]]:
    return {head: [report.peer for report in members] for head, members in lineages_of(reports).items()}


def test_who_is_behind_is_of_the_same_lineage() -> None:
    assert found(at(A, LEFT, FIRST), at(B, FIRST)) == {LEFT.tag: [A.id, B.id]}


def test_two_sides_of_a_split_are_two() -> None:
    assert found(at(A, LEFT, FIRST), at(C, RIGHT, FIRST)) == {LEFT.tag: [A.id], RIGHT.tag: [C.id]}


def test_two_that_began_apart_are_two_also_if_neither_has_done_a_round() -> None:
    assert found(at(A, LEFT, completed=0), at(C, RIGHT, completed=0)) == {LEFT.tag: [A.id], RIGHT.tag: [C.id]}


def test_who_has_just_come_to_an_epoch_need_not_know_those_before() -> None:
    newcomer = at(B, LEFT)
    assert found(newcomer, at(A, LEFT, FIRST), at(C, FIRST)) == {LEFT.tag: [B.id, A.id, C.id]}


def test_who_is_in_no_epoch_is_of_none() -> None:
    assert found(Report(A.id, None), at(B, LEFT)) == {LEFT.tag: [B.id]}


def test_who_was_left_behind_where_two_began_goes_with_the_heavier() -> None:
    """However it is the one that proposes: both sides are of its own lineage, and not of each other's."""
    behind, left, right = (
        at(B, FIRST),
        at(A, LEFT, FIRST, completed=8, work=21),
        at(C, RIGHT, FIRST, completed=9, work=30),
    )
    assert found(behind, left, right) == {LEFT.tag: [B.id, A.id], RIGHT.tag: [B.id, C.id]}
    peers = {peer.id: peer for peer in (A, B, C)}
    reports = {report.peer: report for report in (behind, left, right)}
    _, decision = decide(Ballot(9, B.id), peers, reports, max_attempts=4)
    assert (decision.base, decision.holders, decision.brought) == (9, (C.id,), (A.id,))


def test_who_went_on_where_the_others_began_anew_is_a_side_of_its_own() -> None:
    alone, left, behind = at(D, FIRST, completed=8), at(A, LEFT, FIRST, completed=8), at(B, LEFT, FIRST, completed=7)
    assert found(alone, left, behind) == {FIRST.tag: [D.id], LEFT.tag: [A.id, B.id]}


def test_who_has_the_result_that_the_others_have_not_begun_to_replace_is_of_their_lineage() -> None:
    assert found(at(D, FIRST, completed=8), at(A, LEFT, FIRST, completed=7)) == {LEFT.tag: [D.id, A.id]}


def test_reports_that_contradict_each_other_end_in_some_lineages() -> None:
    one, other = at(A, LEFT, RIGHT), at(C, RIGHT, LEFT)
    assert {peer for members in found(one, other).values() for peer in members} == {A.id, C.id}
