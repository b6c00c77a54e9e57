"""A split swarm becomes one again: no sample of the pass is lost, those used twice are counted, weights are fair."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_p2p.identity import PeerId
from lepton_p2p.replication.branch import MOST_BYTES, Branch, share
from lepton_p2p.replication.branches import Branches, branch_of
from lepton_p2p.replication.cursor import Cursor
from lepton_p2p.replication.notes import Note, NoteFlag
from lepton_p2p.replication.ranges import Range, overlap, size_of
from lepton_p2p.replication.trail import MOST, Gain, Mark, fork, remember

PEERS = tuple(PeerId(f"{index:032x}") for index in range(6))
Place = tuple[int, int]


class Side:
    """Some of the swarm, and every (pass, place) that it has used, as often as it did."""

    def __init__(self, cursor: Cursor, members: tuple[PeerId, ...], used: Counter[Place] | None = None) -> None:
        self.cursor, self.members = cursor, members
        self.used: Counter[Place] = Counter() if used is None else used

    def split_off(self, members: tuple[PeerId, ...]) -> Side:
        return Side(self.cursor, members, Counter(self.used))

    def train(self, rounds: int, dying: PeerId | None = None) -> None:
        for _ in range(rounds):
            plan = self.cursor.plan()
            working = [peer for peer in self.members if peer != dying]
            for peer in working:
                for item in plan.get(peer, ()):
                    self.used.update((self.cursor.pass_number, place) for place in range(item.start, item.stop))
            notes = {peer: Note(NoteFlag.READY, plan.get(peer, ())).encode() for peer in working}
            contributors = [peer for peer in working if plan.get(peer)]
            self.cursor = self.cursor.advance(members=working, contributors=contributors, notes=notes)

    def take(self, other: Side) -> None:
        """The other side's members come, all hold this side's state, and one of them bears what it had.

        ``other.used``: what it used since the split.
        """
        carried = other.cursor
        self.members += tuple(peer for peer in other.members if peer not in self.members)
        notes = {
            peer: Note(NoteFlag.READY, carries=carried.chain if peer in other.members else 0).encode()
            for peer in self.members
        }
        self.cursor = self.cursor.advance(members=self.members, contributors=(), notes=notes)
        assert self.cursor.bearer in other.members
        assert self.cursor.plan() == {}, "nobody else has a share in that round"
        bearer = self.cursor.bearer
        branch = travelled(carried, self.cursor)
        notes |= {bearer: Note(NoteFlag.READY, carries=carried.chain, branch=branch).encode()}
        self.cursor = self.cursor.advance(members=self.members, contributors=[bearer], notes=notes)
        assert self.cursor.bearer is None
        self.used += other.used


def travelled(carried: Cursor, here: Cursor) -> Branch:
    branch = branch_of(carried, here)
    assert branch is not None
    return Branch.decode(branch.encode())


def begun(total: int, batch: int, members: tuple[PeerId, ...] = PEERS[:4]) -> Side:
    notes = {peer: Note(NoteFlag.WANTS_STATE | NoteFlag.FRESH).encode() for peer in members}
    cursor = Cursor(total, 1, batch).advance(members=members, contributors=(), notes=notes, founders=members)
    return Side(cursor, members)


@settings(deadline=None)
@given(
    total=st.integers(1, 90),
    batch=st.integers(1, 7),
    before=st.integers(0, 12),
    left=st.integers(0, 25),
    right=st.integers(1, 25),
    after=st.integers(0, 30),
    cut=st.integers(1, 3),
    dies=st.booleans(),
)
def test_no_sample_is_lost_and_every_second_use_is_counted(
    total: int, batch: int, before: int, left: int, right: int, after: int, cut: int, dies: bool
) -> None:
    whole = begun(total, batch)
    whole.train(before)
    common = Counter(whole.used)
    one, other = whole.split_off(PEERS[:cut]), whole.split_off(PEERS[cut:4])
    one.train(left, dying=PEERS[cut - 1] if dies and cut > 1 else None)
    other.train(right)
    other.used -= common
    own = one.cursor
    assert (branch_of(other.cursor, own) is None) == (not other.used), "who did nothing has nothing to bring"
    if not other.used:
        return
    one.take(other)
    cursor = one.cursor
    assert cursor.samples == own.samples + other.used.total()
    assert cursor.doubled == sum(count - 1 for count in one.used.values())
    one.train(after)
    while one.cursor.pass_number <= cursor.pass_number:
        one.train(1)
    finished = one.cursor.pass_number
    assert {place for number, place in one.used if number < finished} == set(range(total))
    missing = [(n, place) for n in range(finished) for place in range(total) if (n, place) not in one.used]
    assert missing == [], "every sample of every pass was used"
    assert one.cursor.doubled == sum(count - 1 for count in one.used.values())
    assert Cursor.from_json(json.loads(json.dumps(one.cursor.to_json()))) == one.cursor


def test_both_sides_know_the_last_state_that_they_had_in_common() -> None:
    whole = begun(1000, 5)
    whole.train(7)
    one, other = whole.split_off(PEERS[:2]), whole.split_off(PEERS[2:4])
    one.train(20)
    other.train(9)
    root = fork(one.cursor.states, other.cursor.states)
    assert root == whole.cursor.mark
    assert share(one.cursor.mark, other.cursor.mark, root) == pytest.approx(9 / 29)
    assert share(other.cursor.mark, one.cursor.mark, root) == pytest.approx(20 / 29)


def test_a_side_that_did_the_last_common_round_alone_begins_before_it() -> None:
    whole = begun(1000, 5)
    whole.train(7)
    one, other = whole.split_off(PEERS[:4]), whole.split_off(PEERS[2:4])
    one.train(1)  # all put something in, but only two got the result
    one.members = PEERS[:2]
    one.train(3)
    other.train(3)
    assert fork(one.cursor.states, other.cursor.states) == whole.cursor.mark


def test_who_was_only_left_behind_has_nothing_to_bring() -> None:
    whole = begun(1000, 5)
    whole.train(7)
    rest = whole.split_off(PEERS[:3])
    rest.train(30)
    assert branch_of(whole.cursor, rest.cursor) is None
    assert branch_of(rest.cursor, rest.cursor) is None


def test_swarms_that_began_apart_have_the_start_in_common_if_it_is_the_same() -> None:
    one, other = begun(1000, 5, PEERS[:2]), begun(1000, 5, PEERS[2:4])
    one.train(3)
    other.train(4)
    root = fork(one.cursor.states, other.cursor.states)
    assert root is not None
    assert (root.samples, root.work) == (0, 0)
    notes = {peer: Note(NoteFlag.WANTS_STATE | NoteFlag.FRESH, seed=7).encode() for peer in PEERS[:2]}
    elsewhere = Cursor(1000, 1, 5).advance(members=PEERS[:2], contributors=(), notes=notes, founders=PEERS[:2])
    assert fork(one.cursor.states, elsewhere.states) is None


def test_of_three_sides_each_is_weighed_by_what_the_others_do_not_have_yet() -> None:
    whole = begun(10_000, 5)
    whole.train(4)
    one, rest = whole.split_off(PEERS[:2]), whole.split_off(PEERS[2:4])
    one.train(10)
    rest.train(3)
    two, three = rest.split_off(PEERS[2:3]), rest.split_off(PEERS[3:4])
    two.train(6)
    three.train(8)
    one.take(two)
    root = fork(one.cursor.states, three.cursor.states)
    assert root == rest.cursor.mark, "what the second and the third did together is there already"
    before = one.cursor.samples
    one.take(three)
    assert one.cursor.samples == before + 8 * 5
    assert one.cursor.unions == 2


def test_what_both_sides_have_brought_in_already_is_not_counted_again() -> None:
    """The network was cut in the very round in which a third side was brought in, and both sides made that again."""
    whole = begun(10_000, 5)
    whole.train(4)
    one, third = whole.split_off(PEERS[:2]), whole.split_off(PEERS[2:4])
    one.train(5)
    third.train(6)
    two = one.split_off((PEERS[1], PEERS[3]))
    one.members = (PEERS[0], PEERS[2])
    for side, bearer in ((one, PEERS[2]), (two, PEERS[3])):
        rest = third.split_off((bearer,))
        side.take(rest)
    two.train(3)
    samples, done = one.cursor.samples, two.cursor.samples
    one.take(two)
    assert one.cursor.samples == samples + 3 * 2 * 5
    assert done > samples - 60


def test_what_two_sides_have_brought_in_each_by_itself_is_common_to_them_once() -> None:
    whole = begun(10_000, 5)
    whole.train(4)
    one, two, third = (whole.split_off((peer,)) for peer in PEERS[:3])
    one.train(5)
    two.train(7)
    third.train(6)
    for side in (one, two):
        side.take(third)
    two.train(3)
    before = one.cursor.samples
    one.take(two)
    assert one.cursor.samples == before + 7 * 5 + 3 * 2 * 5


def test_who_fell_away_while_it_came_and_got_the_result_of_that_round_has_nothing_to_bring() -> None:
    whole = begun(1000, 5)
    whole.train(7)
    plan = whole.cursor.plan()
    notes = {peer: Note(NoteFlag.READY, plan[peer]).encode() for peer in whole.members}
    notes[PEERS[4]] = Note(NoteFlag.WANTS_STATE).encode()
    whole.cursor = whole.cursor.advance(
        members=[*whole.members, PEERS[4]], contributors=list(whole.members), notes=notes
    )
    whole.train(1)  # without it
    held = whole.cursor
    whole.train(3)
    assert branch_of(held, whole.cursor) is None


def test_who_missed_the_last_round_before_a_training_was_taken_up_again_has_nothing_to_bring() -> None:
    """The only one that saw the end of it went on by itself, with what it had kept."""
    whole = begun(1000, 5)
    whole.train(7)
    behind = whole.split_off(PEERS[:3])
    whole.train(1)
    notes = {PEERS[3]: Note(NoteFlag.WANTS_STATE | NoteFlag.RESCUES).encode()}
    alone = replace(whole.cursor, claimants=(), entering=(), bearer=None)
    again = alone.advance(members=PEERS[3:4], contributors=(), notes=notes, founders=PEERS[3:4])
    assert branch_of(behind.cursor, again) is None


def test_a_branch_that_was_brought_is_not_brought_again_and_its_rest_is() -> None:
    whole = begun(10_000, 5)
    whole.train(4)
    one, other = whole.split_off(PEERS[:2]), whole.split_off(PEERS[2:4])
    one.train(5)
    other.train(5)
    early = other.split_off(PEERS[2:3])
    other.members = PEERS[3:4]
    other.train(6)
    one.take(early)
    assert branch_of(early.cursor, one.cursor) is None
    before = one.cursor.samples
    one.take(other)
    assert one.cursor.samples == before + 6 * 5


def test_who_missed_the_last_round_of_a_branch_has_nothing_to_bring_once_that_is_in() -> None:
    whole = begun(10_000, 5)
    whole.train(4)
    one, other = whole.split_off(PEERS[:2]), whole.split_off(PEERS[2:4])
    one.train(5)
    other.train(5)
    behind = other.split_off(PEERS[3:4])
    other.train(1)
    one.take(other)
    assert branch_of(behind.cursor, one.cursor) is None


def test_a_bearer_that_dies_is_followed_by_the_next_and_nothing_is_counted() -> None:
    whole = begun(100, 5)
    whole.train(2)
    one, other = whole.split_off(PEERS[:2]), whole.split_off(PEERS[2:4])
    one.train(2)
    other.train(2)
    carried = other.cursor
    notes = {p: Note(NoteFlag.READY, carries=carried.chain if p in other.members else 0).encode() for p in PEERS[:4]}
    chosen = one.cursor.advance(members=PEERS[:4], contributors=(), notes=notes)
    assert chosen.bearer == PEERS[2]
    left = {peer: note for peer, note in notes.items() if peer != PEERS[2]}
    after = chosen.advance(members=[*PEERS[:2], PEERS[3]], contributors=(), notes=left)
    assert (after.samples, after.step, after.work) == (chosen.samples, chosen.step, chosen.work)
    assert after.bearer == PEERS[3]


def test_what_fits_nowhere_changes_nothing() -> None:
    whole = begun(100, 5)
    whole.train(2)
    bad = Branch(12345, Mark(9, 8, 0, 1), (), 0, 50, (), 0)
    notes = {peer: Note(NoteFlag.READY, carries=9 if peer == PEERS[1] else 0).encode() for peer in PEERS[:4]}
    chosen = whole.cursor.advance(members=PEERS[:4], contributors=(), notes=notes)
    notes[PEERS[1]] = Note(NoteFlag.READY, carries=9, branch=bad).encode()
    after = chosen.advance(members=PEERS[:4], contributors=[PEERS[1]], notes=notes)
    assert (after.samples, after.step, after.work, after.unions) == (chosen.samples, chosen.step, chosen.work, 0)


def test_a_trail_keeps_its_beginning_and_the_newest() -> None:
    trail: tuple[Mark, ...] = ()
    for number in range(1, 60):
        trail = remember(trail, [Mark(number, number, 0, number)])
    assert len(trail) == MOST
    assert [mark.chain for mark in trail] == [1, *range(60 - MOST + 1, 60)]


marks = st.builds(Mark, st.integers(1, 2**64 - 1), st.integers(0, 2**40), st.integers(0, 99), st.integers(0, 2**40))
gaps = st.lists(st.tuples(st.integers(1, 2**25), st.integers(1, 2**25)), max_size=300)


@given(marks, st.lists(marks, max_size=20), gaps, st.integers(0, 2**30))
def test_a_branch_travels_and_never_tells_a_place_used_that_is_not(
    end: Mark, since: list[Mark], gaps: list[tuple[int, int]], passes: int
) -> None:
    returned, at = [], 0
    for gap, size in gaps:
        returned.append(Range(at + gap, at + gap + size))
        at += gap + size
    gains = tuple(Gain(number, 7, 8, 9, 10) for number in range(1, len(since)))
    branch = Branch(77, end, tuple(since), passes, at + 5, tuple(returned), 3, gains)
    data = branch.encode()
    assert len(data) <= MOST_BYTES
    read = Branch.decode(data)
    assert replace(read, returned=(), since=(), gains=()) == replace(branch, returned=(), since=(), gains=())
    assert size_of(overlap(read.returned, returned)) == size_of(returned)
    if len(gaps) < 30:
        assert read.returned == branch.returned


@given(st.binary(max_size=800))
def test_nonsense_is_refused(data: bytes) -> None:
    try:
        branch = Branch.decode(data)
    except ValueError:
        return
    assert Branch.decode(branch.encode()) == branch


def test_where_single_peers_are_not_trusted_nobody_bears_anything() -> None:
    whole = begun(100, 5)
    whole.cursor = replace(whole.cursor, unites=False)
    whole.train(2)
    notes = {peer: Note(NoteFlag.READY, carries=9 if peer == PEERS[1] else 0).encode() for peer in PEERS[:4]}
    after = whole.cursor.advance(members=PEERS[:4], contributors=(), notes=notes)
    assert after.bearer is None
    assert Cursor.from_json(json.loads(json.dumps(after.to_json()))) == after
    told: list[str] = []
    branches: Branches[str] = Branches(lambda why, samples: told.append(f"{why}: {samples}"))
    other = whole.split_off(PEERS[2:4])
    other.train(3)
    branches.keep("state", other.cursor)
    whole.members = PEERS[:2]
    whole.train(4)
    assert branches.load(whole.cursor) is None
    assert told == ["where single peers are not trusted none can bring anything in: 70"]


def test_of_more_states_than_can_be_carried_the_oldest_is_given_up_and_said() -> None:
    whole = begun(10_000, 5)
    whole.train(2)
    told: list[int] = []
    branches: Branches[int] = Branches(lambda why, samples: told.append(samples))
    for number in range(5):
        side = whole.split_off(PEERS[:1])
        side.train(number + 1)
        branches.keep(number, side.cursor)
    assert len(branches) == 3
    assert told == [45, 50]
    assert branches.newest() == 4
