"""The data cursor: every sample of a pass exactly once, whatever happens to whom, and the same cursor everywhere."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_p2p.identity import PeerId
from lepton_p2p.replication.cursor import Cursor
from lepton_p2p.replication.notes import MAX_RANGES, Note, NoteFlag
from lepton_p2p.replication.permutation import permutation
from lepton_p2p.replication.ranges import Range, join, size_of, split
from lepton_p2p.training.sampler import Sampler

GOLDEN = ([3, 7, 1, 6, 4, 0, 5, 2], [2, 1, 5, 3, 6, 0, 7, 4])
PEERS = tuple(PeerId(f"{index:032x}") for index in range(6))
READY = Note(NoteFlag.READY)


def start(total: int = 100, batch: int = 10, peers: int = 3) -> Cursor:
    """The cursor after the founding round of ``peers`` peers."""
    members = PEERS[:peers]
    notes = {peer: Note(NoteFlag.WANTS_STATE | NoteFlag.FRESH).encode() for peer in members}
    return Cursor(total, 1, batch).advance(members=members, contributors=(), notes=notes, founders=members)


def notes_of(cursor: Cursor, members: tuple[PeerId, ...]) -> dict[PeerId, bytes]:
    plan = cursor.plan()
    return {peer: Note(NoteFlag.READY, plan.get(peer, ())).encode() for peer in members}


def good_round(cursor: Cursor, members: tuple[PeerId, ...]) -> Cursor:
    return cursor.advance(members=members, contributors=members, notes=notes_of(cursor, members))


def test_nobody_claims_in_the_founding_round_and_all_members_afterwards() -> None:
    assert Cursor(100, 1, 10).plan() == {}
    assert [size_of(claim) for claim in start().plan().values()] == [10, 10, 10]


def test_nobody_claims_before_so_many_are_ready_as_any_of_the_members_wants() -> None:
    waiting = {
        peer: Note(NoteFlag.READY, quorum=quorum).encode() for peer, quorum in zip(PEERS, (1, 3, 2), strict=False)
    }
    two = Cursor(100, 1, 10).advance(members=PEERS[:2], contributors=(), notes=waiting, founders=PEERS[:2])
    assert two.claimants == ()
    three = two.advance(members=PEERS[:3], contributors=(), notes=waiting)
    assert three.claimants == PEERS[:3]
    left = three.advance(members=PEERS[:2], contributors=PEERS[:2], notes=waiting)
    assert left.claimants == PEERS[:2], "who dies later is not waited for"


def test_work_counts_contributors() -> None:
    cursor = good_round(good_round(start(), PEERS[:3]), PEERS[:2])
    assert (cursor.step, cursor.work) == (2, 5)


def test_without_shuffling_places_are_samples_in_every_pass() -> None:
    sampler = Sampler(shuffle=False)
    for number in range(2):
        cursor = replace(start(), pass_number=number)
        assert sampler.samples(cursor, (Range(90, 100), Range(3, 5))).tolist() == [*range(90, 100), 3, 4]


def test_claims_of_a_round_are_one_contiguous_stretch_so_that_one_process_can_do_the_same() -> None:
    claims = start().plan()
    assert join(item for claim in claims.values() for item in claim) == (Range(0, 30),)


def test_the_end_of_a_pass_is_split_evenly() -> None:
    cursor = start(total=38)
    cursor = good_round(cursor, PEERS[:3])
    assert [size_of(claim) for claim in cursor.plan().values()] == [3, 3, 2]
    after = good_round(cursor, PEERS[:3])
    assert (after.pass_number, after.position, after.used, after.samples, after.step) == (1, 0, 0, 38, 2)


def test_the_claim_of_a_member_that_died_goes_back_and_is_issued_first() -> None:
    cursor = start()
    dead = PEERS[1]
    after = cursor.advance(
        members=(PEERS[0], PEERS[2]), contributors=(PEERS[0], PEERS[2]), notes=notes_of(cursor, PEERS[:3])
    )
    assert after.returned == tuple(cursor.plan()[dead])
    assert after.plan()[PEERS[0]] == after.returned


def test_a_newcomer_claims_nothing_until_its_note_said_that_it_is_ready() -> None:
    cursor = start(peers=2)
    members = PEERS[:3]
    notes = notes_of(cursor, PEERS[:2]) | {PEERS[2]: Note(NoteFlag.WANTS_STATE).encode()}
    joined = cursor.advance(members=members, contributors=PEERS[:2], notes=notes)
    assert PEERS[2] not in joined.plan()
    ready = notes_of(joined, PEERS[:2]) | {PEERS[2]: READY.encode()}
    assert PEERS[2] in joined.advance(members=members, contributors=PEERS[:2], notes=ready).plan()


def test_what_was_refused_goes_to_somebody_else_and_is_skipped_the_second_time() -> None:
    cursor = start()
    bad = cursor.plan()[PEERS[0]]
    members = PEERS[:3]
    once = cursor.advance(members=members, contributors=PEERS[1:3], refused=PEERS[:1], notes=notes_of(cursor, members))
    assert once.returned == tuple(item._replace(tries=1) for item in bad)
    second = next(peer for peer, claim in once.plan().items() if claim[0].start == bad[0].start)
    assert second != PEERS[0]
    others = tuple(peer for peer in members if peer != second)
    twice = once.advance(members=members, contributors=others, refused=(second,), notes=notes_of(once, members))
    assert (twice.returned, twice.skipped, twice.skips) == ((), 10, 10)


def test_a_round_without_contributors_is_no_step() -> None:
    cursor = start()
    after = cursor.advance(members=PEERS[:3], contributors=(), notes=notes_of(cursor, PEERS[:3]))
    assert after.step == cursor.step
    assert after.remaining == cursor.remaining


def test_a_contributor_with_an_unreadable_note_used_all_that_it_was_given() -> None:
    cursor = start(peers=1)
    after = cursor.advance(members=PEERS[:1], contributors=PEERS[:1], notes={PEERS[0]: b"?"})
    assert after.used == 10


def test_a_contributor_cannot_use_what_it_was_not_given() -> None:
    cursor = start(peers=2)
    notes = {peer: Note(NoteFlag.READY, (Range(0, 100),)).encode() for peer in PEERS[:2]}
    assert cursor.advance(members=PEERS[:2], contributors=PEERS[:2], notes=notes).used == 20


@st.composite
def histories(draw: st.DrawFn) -> tuple[int, int, list[tuple[list[str], int]]]:
    """(samples, batch, rounds); a round is what happens to each of six peers, and how many of them want to join."""
    fate = st.sampled_from(["good", "good", "good", "dies", "refused", "absent", "silent"])
    rounds = st.lists(st.tuples(st.lists(fate, min_size=6, max_size=6), st.integers(0, 2)), max_size=60)
    return draw(st.integers(1, 200)), draw(st.integers(1, 20)), draw(rounds)


@settings(max_examples=200, deadline=None)
@given(histories())
def test_over_any_history_each_sample_is_used_once_per_pass_or_counted_as_skipped(
    history: tuple[int, int, list[tuple[list[str], int]]],
) -> None:
    total, batch, rounds = history
    cursor = start(total, batch, 2)
    members, used = list(PEERS[:2]), Counter[tuple[int, int]]()
    skipped: Counter[int] = Counter()
    for fates, joining in [*rounds, *([(["good"] * 6, 0)] * (total // batch + 3))]:
        plan = cursor.plan()
        fate = dict(zip(PEERS, fates, strict=True))
        waiting = [peer for peer in PEERS if peer not in members][:joining]
        survivors = [peer for peer in members if fate[peer] != "dies"] or members[:1]
        # "silent": a member that takes part with weight 0 although it has a claim.
        contributors = [p for p in survivors if fate[p] in ("good", "dies") and plan.get(p)]
        refused = [p for p in survivors if fate[p] == "refused" and plan.get(p)]
        notes = {p: Note(NoteFlag.READY, plan.get(p, ())).encode() for p in survivors}
        notes |= {p: Note(NoteFlag.WANTS_STATE).encode() for p in waiting}
        before = cursor
        result_members = [*survivors, *waiting]
        cursor = before.advance(members=result_members, contributors=contributors, refused=refused, notes=notes)
        twin = replace(before).advance(
            members=tuple(result_members), contributors=set(contributors), refused=set(refused), notes=dict(notes)
        )
        assert cursor == twin
        assert Cursor.from_json(json.loads(json.dumps(cursor.to_json()))) == cursor
        used.update((before.pass_number, place) for p in contributors for item in plan[p] for place in range(*item[:2]))
        skipped[before.pass_number] += cursor.skips - before.skips
        if cursor.pass_number > before.pass_number:
            assert sum(n == before.pass_number for n, _ in used) + skipped[before.pass_number] == total
        members = result_members
    assert set(used.values()) <= {1}
    assert cursor.samples == len(used)
    assert cursor.pass_number >= 1, "good rounds at the end must finish the pass"


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=300, max_size=300))
def test_a_claim_always_fits_into_a_note_however_scattered_the_returned_places_are(keep: list[bool]) -> None:
    returned = join(Range(place, place + 1, tries=int(place % 3 == 0)) for place, kept in enumerate(keep) if kept)
    cursor = Cursor(2**30, 1, 200, position=300, returned=returned, used=300 - size_of(returned), claimants=PEERS[:2])
    for claim in cursor.plan().values():
        assert len(claim) <= MAX_RANGES
        assert len(Note(NoteFlag.READY, claim).encode()) <= 1024


@pytest.mark.parametrize(
    "change",
    [
        {"position": 101},
        {"used": 1},
        {"batch": 0},
        {"returned": [[5, 3, 0]]},
        {"returned": [[0, 5]]},
        {"claimants": ["x"]},
        {"step": -1},
        {"step": 1.5},
        {"extra": 1},
        {"total": 2**40},
    ],
)
def test_a_cursor_that_contradicts_itself_is_not_read(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not a data cursor"):
        Cursor.from_json({**start().to_json(), **change})


@given(st.integers(0, 300), st.integers(0, 2**53), st.integers(0, 1000))
def test_a_permutation_has_every_sample_once(size: int, seed: int, pass_number: int) -> None:
    assert sorted(permutation(size, seed, pass_number)) == list(range(size))


def test_permutations_never_change_between_versions() -> None:
    assert permutation(8, 7, 0).tolist() == GOLDEN[0]
    assert permutation(8, 7, 1).tolist() == GOLDEN[1]


def test_the_sampler_turns_claims_into_samples_of_the_current_pass() -> None:
    sampler, cursor = Sampler(), start()
    order = permutation(100, 1, 0)
    assert np.array_equal(sampler.samples(cursor, (Range(3, 5), Range(8, 9))), order[[3, 4, 8]])
    later = replace(cursor, pass_number=1)
    assert np.array_equal(sampler.samples(later, (Range(0, 100),)), permutation(100, 1, 1))
    assert sampler.samples(cursor, ()).shape == (0,)


ranges = st.lists(st.integers(0, 60), max_size=20, unique=True).map(
    lambda cuts: join(Range(a, b) for a, b in zip(sorted(cuts)[::2], sorted(cuts)[1::2], strict=False))
)


@given(ranges, ranges)
def test_split_is_intersection_and_difference(left: tuple[Range, ...], right: tuple[Range, ...]) -> None:
    def places(items: tuple[Range, ...]) -> set[int]:
        return {place for item in items for place in range(item.start, item.stop)}

    inside, rest = split(left, right)
    assert places(inside) == places(left) & places(right)
    assert places(rest) == places(left) - places(right)
