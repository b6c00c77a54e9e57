"""On what footing peers take part in a training, and whose state it starts from: pure functions of replicated notes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType

import pytest

from lepton_p2p.identity import PeerId
from lepton_p2p.replication.footing import Deed, Footing, Turn, founders_of
from lepton_p2p.replication.notes import Note, NoteFlag
from lepton_p2p.rounds.result import RoundResult

PEERS = tuple(PeerId(f"{index:032x}") for index in (7, 3, 5))
ENTERING = NoteFlag.WANTS_STATE | NoteFlag.FRESH


def fresh(seed: int = 1, seen: int | None = None, work: int = 0) -> Note:
    return Note(ENTERING, seen=seen, seed=seed, work=work)


def result(notes: Sequence[Note | None], round: int = 1) -> RoundResult:
    said = {peer: note.encode() if note else b"?" for peer, note in zip(PEERS, notes, strict=False)}
    members = tuple(said)
    return RoundResult(1, round, 1, members, (), (), members, (), 0.0, 1, MappingProxyType(said))


def test_all_that_start_from_the_same_state_found_together() -> None:
    assert set(founders_of(result([fresh(seen=0), fresh(seen=0), fresh(seen=0)]))) == set(PEERS)


def test_of_different_states_that_of_the_first_member_counts_and_who_holds_the_same_founds_too() -> None:
    assert set(founders_of(result([fresh(9, 0), fresh(2, 0), fresh(9, 0)]))) == {PEERS[0], PEERS[2]}


def test_one_that_saw_all_rounds_is_enough_to_know_that_nothing_was_lost() -> None:
    assert set(founders_of(result([fresh(), fresh(seen=7), fresh()], round=8))) == set(PEERS)


@pytest.mark.parametrize("seen", [None, 0, 6, 8])
def test_if_nobody_saw_all_rounds_those_that_held_the_state_may_have_died(seen: int | None) -> None:
    assert not founders_of(result([fresh(), fresh(seen=seen), fresh()], round=8))


@pytest.mark.parametrize(
    "other", [Note(NoteFlag.READY), Note(NoteFlag.WANTS_STATE), Note(), None], ids=["ready", "dropped", "busy", "junk"]
)
def test_nobody_founds_while_somebody_may_hold_the_state_or_has_seen_the_training(other: Note | None) -> None:
    assert not founders_of(result([fresh(seen=0), other, fresh(seen=0)]))


def test_of_different_checkpoints_the_one_with_the_most_work_counts_whoever_is_first() -> None:
    assert set(founders_of(result([fresh(1, 0), fresh(2, 0, 70), fresh(3, 0, 69)]))) == {PEERS[1]}


def test_who_saw_less_of_another_lineage_than_the_checkpoint_holds_does_not_stand_in_its_way() -> None:
    yielded = Note(NoteFlag.WANTS_STATE, work=40)
    assert set(founders_of(result([yielded, fresh(5, 0, 70), fresh(5, 0, 70)]))) == set(PEERS[1:])
    assert not founders_of(result([replace(yielded, work=70), fresh(5, 0, 70), fresh(5, 0, 70)]))


def test_a_peer_whose_first_epoch_yielded_before_its_first_round_is_as_fresh_as_before() -> None:
    footing = Footing()
    footing.enter_again()
    note = footing.note((), 0.0, seen=lambda: 0, seed=lambda: 9, work=70)
    assert (note.flags, note.seed, note.work) == (ENTERING, 9, 70)


def turn(flags: list[NoteFlag], *, me: int = 0, footing: Footing | None = None, round: int = 5) -> tuple[Footing, Turn]:
    """``PEERS[me]`` takes a round whose members wrote notes with these ``flags``."""
    footing = footing or Footing()
    notes = [Note(flag) for flag in flags]
    return footing, footing.take(result(notes, round=round), PEERS[me])


READY, WANTS = NoteFlag.READY, NoteFlag.WANTS_STATE


def test_a_newcomer_fetches_the_state_keeps_results_meanwhile_and_applies_once_it_has_caught_up() -> None:
    footing, first = turn([WANTS, READY, READY])
    assert first.deed is Deed.FETCH
    assert turn([NoteFlag.NONE, READY, READY], footing=footing, round=6)[1].deed is Deed.KEEP
    footing.caught_up()
    assert turn([READY, READY, READY], footing=footing, round=7)[1].deed is Deed.APPLY


def test_a_failed_fetch_is_wished_for_again_and_counted_until_the_others_stop_waiting() -> None:
    footing, _ = turn([WANTS, READY, READY])
    for failures in (1, 2, 3):
        footing.fetch_failed()
        note = footing.note((), 0.0, seen=lambda: None, seed=lambda: 0)
        assert (note.flags, note.failures) == (WANTS, failures)
        assert footing.take(result([note, Note(READY), Note(READY)], round=5 + failures), PEERS[0]).deed is Deed.FETCH
    established = Footing()
    established.caught_up()
    hopeless = result([Note(READY), Note(WANTS, failures=3), Note(READY)], round=9)
    established.take(hopeless, PEERS[0])
    assert established.all_ready


def test_who_holds_the_state_keeps_it_for_those_that_ask_and_settles_those_that_are_ready() -> None:
    footing = Footing()
    footing.caught_up()
    _, donated = turn([READY, WANTS, READY], footing=footing)
    assert (donated.deed, donated.wanting) == (Deed.APPLY, {PEERS[1]})
    assert set(donated.settled) == set(PEERS)


def test_if_everybody_wants_the_state_and_nobody_founds_it_is_lost() -> None:
    assert turn([WANTS, WANTS, WANTS])[1].deed is Deed.LOST


def test_a_peer_that_is_not_a_founder_waits_for_the_round_after() -> None:
    footing = Footing()
    founding = footing.take(result([fresh(1, 0), fresh(2), fresh(1)], round=1), PEERS[1])
    assert founding.deed is Deed.WAIT
    assert footing.note((), 0.0, seen=lambda: 0, seed=lambda: 2).flags == WANTS


def test_how_long_the_members_have_waited_for_a_holder_travels_with_their_notes() -> None:
    footing = Footing()
    mine = footing.note((), 0.0, seen=lambda: None, seed=lambda: 0, waited=3)
    lost = footing.take(result([mine, Note(WANTS, waited=12), Note(WANTS)], round=9), PEERS[0])
    assert (mine.waited, lost.deed, lost.waited) == (3, Deed.LOST, 12)


def test_who_was_dropped_wants_the_state_and_does_not_found_again() -> None:
    footing = Footing()
    footing.caught_up()
    footing.enter_again()
    assert footing.note((), 0.0, seen=lambda: 0, seed=lambda: 0).flags == WANTS


def test_who_stepped_out_with_the_state_may_found_with_it_if_nobody_else_is_left() -> None:
    footing = Footing()
    footing.caught_up()
    footing.step_out()
    assert footing.note((), 0.0, seen=lambda: 0, seed=lambda: 0).flags == WANTS | NoteFlag.FRESH


def test_while_nobody_holds_the_state_but_somebody_still_fetches_it_the_others_wait() -> None:
    assert turn([WANTS, NoteFlag.NONE, WANTS])[1].deed is Deed.WAIT


def test_a_swarm_that_lost_the_state_notices_however_the_fetches_of_its_members_overlap() -> None:
    footings = [Footing() for _ in PEERS]
    for index, footing in enumerate(footings):  # all fetch what the last holder takes with it
        notes = [Note(WANTS) if other == index else Note(READY) for other in range(3)]
        assert footing.take(result(notes, 4), PEERS[index]).deed is Deed.FETCH
    deeds: list[Deed] = []
    for round in range(5, 12):
        notes = [footing.note((), 0.0, seen=lambda: None, seed=lambda: 0) for footing in footings]
        deeds = [footing.take(result(notes, round), peer).deed for footing, peer in zip(footings, PEERS, strict=True)]
        if round - 5 < len(footings):
            footings[round - 5].fetch_failed()  # one after the other
    assert deeds == [Deed.LOST] * 3


def test_all_members_learn_from_the_founding_round_how_much_work_their_state_begins_with() -> None:
    """Whoever held more, and founded the epoch for it, may have died before."""
    notes = [Note(ENTERING, seen=0, seed=1, work=5), Note(ENTERING, seen=0, seed=1, work=5), Note(ENTERING, seed=2)]
    turns = [Footing().take(result(notes, round=1), peer) for peer in PEERS]
    assert [turn.deed for turn in turns] == [Deed.APPLY, Deed.APPLY, Deed.WAIT]
    assert [turn.begins for turn in turns] == [5, 5, 5]


def test_a_lost_state_begins_with_nothing_and_other_rounds_change_nothing() -> None:
    assert turn([WANTS, WANTS, WANTS])[1].begins == 0
    assert turn([WANTS, READY, READY])[1].begins is None


def test_nobody_is_done_while_somebody_has_something_to_bring_in_unless_it_cannot_get_the_state() -> None:
    established, _ = turn([NoteFlag.WANTS_STATE | NoteFlag.FRESH], round=1)
    established.established = True
    ready = Note(NoteFlag.READY)
    for other, done in (
        (ready, True),
        (Note(NoteFlag.READY, carries=7), False),
        (Note(NoteFlag.WANTS_STATE, failures=3, carries=7), True),
        (Note(NoteFlag.WANTS_STATE, failures=2, carries=7), False),
    ):
        established.take(result([ready, other]), PEERS[0])
        assert established.all_ready == done


def rescuer(work: int, seed: int, waited: int = 30) -> Note:
    return Note(NoteFlag.WANTS_STATE | NoteFlag.RESCUES, work=work, seed=seed, waited=waited)


def test_if_all_have_waited_in_vain_the_training_goes_on_from_the_heaviest_state_that_is_carried() -> None:
    bare = Note(NoteFlag.WANTS_STATE, waited=30)
    assert set(founders_of(result([bare, rescuer(5, 1), rescuer(9, 2)]))) == {PEERS[2]}
    assert set(founders_of(result([rescuer(9, 2), bare, rescuer(9, 2)]))) == {PEERS[0], PEERS[2]}


@pytest.mark.parametrize(
    "other",
    [Note(NoteFlag.READY), Note(waited=30), Note(NoteFlag.WANTS_STATE), None],
    ids=["ready", "busy", "new", "junk"],
)
def test_nobody_rescues_while_somebody_may_hold_the_state_or_has_not_waited(other: Note | None) -> None:
    assert not founders_of(result([rescuer(9, 2), other, rescuer(9, 2)]))
