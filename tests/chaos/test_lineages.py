"""What peers tell becomes one history, in whatever order it comes; and what must not be told is noticed."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.lineages import History, Violation
from chaos.stories import Line, line
from lepton_p2p.replication.branch import Branch
from lepton_p2p.replication.trail import Mark

A, B, C, D = PEERS = "aaaaaaaa", "bbbbbbbb", "cccccccc", "dddddddd"


def tell(history: History, lines: Sequence[Line], *peers: str) -> None:
    for one in lines:
        for peer in peers:
            history.told(peer, dict(one))


def told_by(history: History, first: int, last: int, *peers: str, epoch: int = 1) -> None:
    """All of ``peers``, who are the members, tell of these rounds."""
    tell(history, [line(number, peers, epoch=epoch) for number in range(first, last + 1)], *peers)


def numbers(history: History) -> list[int]:
    return [round.number for round in history.trunk]


def test_what_all_tell_alike_is_the_trunk() -> None:
    history = History()
    told_by(history, 1, 9, A, B, C)
    assert [round.number for round in history.settle([A, B, C])] == list(range(1, 10))
    told_by(history, 10, 12, A, B, C)
    assert [round.number for round in history.settle([A, B, C])] == [10, 11, 12]
    assert (history.settled, history.void, history.reached) == (12, 0, 12)


def test_what_not_all_have_told_is_not_settled_yet() -> None:
    history = History()
    told_by(history, 1, 3, A, B)
    history.told(A, line(4, [A, B]))
    history.settle([A, B])
    assert numbers(history) == [1, 2, 3]
    history.told(B, line(4, [A, B]))
    history.settle([A, B])
    assert numbers(history) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("other", "name"),
    [({"digest": 99}, "one result per round"), ({"params": "others"}, "bit-identical replicas")],
    ids=["result", "parameters"],
)
def test_members_that_differ_are_noticed_at_once(other: dict[str, object], name: str) -> None:
    history = History()
    told_by(history, 1, 2, A, B)
    history.told(A, line(3, [A, B]))
    with pytest.raises(Violation, match=name):
        history.told(B, line(3, [A, B], **other))


def test_a_peer_that_holds_no_state_yet_has_no_parameters_to_compare() -> None:
    history = History()
    told_by(history, 1, 2, A, B)
    history.told(A, line(3, [A, B]))
    history.told(B, line(3, [A, B], params=""))
    history.settle([A, B])
    assert history.trunk[-1].params == "params 3"


def test_a_round_that_is_left_out_is_noticed() -> None:
    history = History()
    told_by(history, 1, 2, A, B)
    with pytest.raises(Violation, match="no round is lost"):
        history.told(A, line(4, [A, B]))


def test_who_was_dropped_may_come_back_at_any_round() -> None:
    history = History()
    told_by(history, 1, 2, A, B, C)
    told_by(history, 3, 8, A, B, epoch=2)
    history.stepped(C, {"phase": "joining"})
    told_by(history, 9, 10, A, B, C, epoch=3)
    history.settle([A, B, C])
    assert numbers(history) == list(range(1, 11))


def test_what_only_the_dead_held_is_void() -> None:
    history = History()
    told_by(history, 1, 4, A, B, C)
    history.told(C, line(5, [A, B, C]))  # killed then
    told_by(history, 5, 7, A, B, epoch=2)
    history.settle([A, B])
    assert numbers(history) == [1, 2, 3, 4, 5, 6, 7]
    assert [round.members for round in history.trunk[4:]] == [{A, B}] * 3
    assert history.void == 1


def parted(*, alone: int) -> History:
    """C goes on alone for so many rounds while A and B do; then all are in the swarm of those two."""
    history = History()
    told_by(history, 1, 4, A, B, C)
    for number in range(5, 5 + alone):
        history.told(C, line(number, [C], epoch=2, samples=number))
    told_by(history, 5, 6, A, B, epoch=2)
    history.dropped(C)
    return history


@pytest.mark.parametrize("alone", [1, 4])
def test_rounds_of_one_who_lives_are_not_thrown_away(alone: int) -> None:
    history = parted(alone=alone)
    told_by(history, 7, 8, A, B, C, epoch=3)
    with pytest.raises(
        Violation, match=f"no round is lost: {alone} rounds were thrown away, at last round {4 + alone} "
    ):
        history.settle([A, B, C])


@pytest.mark.parametrize("alone", [1, 4])
def test_what_it_did_alone_may_die_with_it(alone: int) -> None:
    history = parted(alone=alone)
    told_by(history, 7, 8, A, B, D, epoch=3)  # D is the process that has come in the place of C
    history.settle([A, B, D])
    assert numbers(history) == list(range(1, 9))
    assert history.void == alone


@pytest.mark.parametrize("alone", [1, 4])
def test_they_are_part_of_the_trunk_in_the_round_that_brings_them_in(alone: int) -> None:
    history = parted(alone=alone)
    told_by(history, 7, 7, A, B, C, epoch=3)
    end = Mark(chain=1, samples=4 + alone, skips=0, work=0)
    tell(history, [line(8, [A, B, C], epoch=3, brings=(C, Branch(2, end, (), 0, 0, (), 0, ())))], A, B, C)
    history.settle([A, B, C])
    assert numbers(history) == list(range(1, 9))
    assert [round.number for round in history.trunk[-1].brought] == list(range(5, 5 + alone))
    assert (history.united, history.void) == (1, 0)


def test_half_of_what_was_done_apart_is_not_enough() -> None:
    history = parted(alone=4)
    told_by(history, 7, 7, A, B, C, epoch=3)
    end = Mark(chain=1, samples=6, skips=0, work=0)
    tell(history, [line(8, [A, B, C], epoch=3, brings=(C, Branch(2, end, (), 0, 0, (), 0, ())))], A, B, C)
    with pytest.raises(Violation, match="no round is lost: 2 rounds were thrown away"):
        history.settle([A, B, C])


@pytest.mark.parametrize("nothing", [{"params": ""}, {"contributors": []}], ids=["only joined", "nothing done"])
def test_what_a_peer_that_lives_only_heard_of_is_not_thrown_away(nothing: dict[str, object]) -> None:
    history = History()
    told_by(history, 1, 4, A, B, C)
    heard = line(5, [C], epoch=2, params=nothing.get("params"))
    heard["shared"] |= {key: value for key, value in nothing.items() if key != "params"}
    history.told(C, heard)
    history.dropped(C)
    told_by(history, 5, 6, A, B, epoch=2)
    told_by(history, 7, 7, A, B, C, epoch=3)
    history.settle([A, B, C])
    assert history.void == 1


def test_two_lineages_at_rest_are_noticed() -> None:
    history = History()
    told_by(history, 1, 4, A, B, C, D)
    told_by(history, 5, 6, A, B, epoch=2)
    told_by(history, 5, 7, C, D, epoch=2)
    with pytest.raises(Violation, match="one lineage"):
        history.settle(PEERS)


def test_two_ways_to_one_round_are_noticed() -> None:
    history = History()
    told_by(history, 1, 4, A, B)
    history.told(A, line(5, [A, B], epoch=2))
    history.told(B, line(5, [A, B], epoch=3))
    history.told(A, line(6, [A, B], epoch=4))
    with pytest.raises(Violation, match="one result per round"):
        history.told(B, line(6, [A, B], epoch=4))


def test_a_trunk_that_nobody_leads_on_from_is_noticed() -> None:
    history = History()
    told_by(history, 1, 4, A, B)
    history.settle([A, B])
    told_by(history, 9, 12, C, D)
    with pytest.raises(Violation, match="nobody knows what was before round 9"):
        history.settle([C, D])


def test_who_had_only_joined_goes_on_when_all_others_die_at_once() -> None:
    history = History()
    told_by(history, 1, 4, A, B)
    history.settle([A, B])
    history.told(A, line(5, [A, B, C], epoch=2))
    tell(history, [line(6, [A, B, C], epoch=2)], C)  # its first; A and B were killed before they could tell
    tell(history, [line(7, [C], epoch=3)], C)
    history.settle([C])
    assert numbers(history) == [1, 2, 3, 4, 5, 6, 7]


# -- checkpoints -------------------------------------------------------------------------------------------


def all_died(last: int) -> History:
    history = History()
    told_by(history, 1, last, A, B)
    history.settle([A, B])
    history.died()
    return history


@pytest.mark.parametrize("untold", [0, 2], ids=["settled", "not settled"])
def test_after_the_death_of_all_the_trunk_goes_on_from_the_checkpoint(untold: int) -> None:
    history = History()
    told_by(history, 1, 20 - untold, A, B)
    history.settle([A, B])
    told_by(history, 21 - untold, 20, A, B)
    history.died()
    assert history.reached_before == 20
    founding = [line(1, [C, D], step=19, total=0)]
    founding[0]["shared"]["contributors"] = []
    tell(history, [*founding, *(line(number, [C, D], step=18 + number) for number in (2, 3))], C, D)
    assert history.go_back([C, D]).number == 19
    history.settle([C, D])
    assert [round.step for round in history.trunk[-4:]] == [19, 19, 20, 21]
    assert numbers(history)[-4:] == [19, 1, 2, 3]


def test_a_checkpoint_of_something_else_is_noticed() -> None:
    history = all_died(20)
    founding = line(1, [C, D], step=15, params="never trained")
    founding["shared"]["contributors"] = []
    tell(history, [founding], C, D)
    with pytest.raises(Violation, match="a checkpoint is what was trained"):
        history.go_back([C, D])


def test_a_training_that_begins_anew_is_noticed() -> None:
    history = all_died(20)
    founding = line(1, [C, D], step=0, params="seeded")
    founding["shared"]["contributors"] = []
    tell(history, [founding], C, D)
    with pytest.raises(Violation, match="nobody made"):
        history.go_back([C, D])


# -- any order -----------------------------------------------------------------------------------------------


@st.composite
def true_histories(draw: st.DrawFn) -> tuple[int, dict[str, list[Line]], list[str]]:
    """Epochs with members that die or come, and what each peer told: ``(rounds, lines by peer, the living)``."""
    members, living = list(PEERS), list(PEERS)
    lines: dict[str, list[Line]] = {}
    number = 0
    for epoch in range(1, draw(st.integers(1, 6)) + 1):
        for _ in range(draw(st.integers(1, 4))):
            number += 1
            one = line(number, members, epoch=epoch)
            for peer in members:
                lines.setdefault(peer, []).append(dict(one))
        if draw(st.booleans()) and len(members) > 1:
            dead = members.pop(draw(st.integers(0, len(members) - 1)))
            living.remove(dead)
            if draw(st.booleans()):  # it had a result that nobody else has
                lines[dead].append(line(number + 1, [*members, dead], epoch=epoch))
        elif draw(st.booleans()):
            members = [*members, f"new{epoch:05}"]
            living.append(members[-1])
    newcomers = [peer for peer in living if peer not in lines]
    return number, lines, [peer for peer in living if peer not in newcomers]


def in_some_order(lines: Mapping[str, Sequence[Line]], choose: st.DataObject) -> list[tuple[str, Line]]:
    """Each peer's lines in their order, peers mixed in any way."""
    left = {peer: deque(told) for peer, told in lines.items()}
    mixed = []
    while peers := [peer for peer, told in left.items() if told]:
        peer = choose.draw(st.sampled_from(peers))
        mixed.append((peer, left[peer].popleft()))
    return mixed


def hear_out(told: Sequence[tuple[str, Line]], living: Sequence[str]) -> History:
    """All that is told, then what became of it."""
    history = History()
    for peer, one in told:
        history.told(peer, one)
    history.settle(living)
    return history


@given(true_histories(), st.data())
def test_the_order_in_which_peers_tell_makes_no_difference(
    story: tuple[int, dict[str, list[Line]], list[str]], choose: st.DataObject
) -> None:
    rounds, lines, living = story
    history = hear_out(in_some_order(lines, choose), living)
    assert numbers(history) == list(range(1, rounds + 1))


@given(true_histories(), st.data())
def test_one_wrong_line_is_noticed_in_whatever_order_it_comes(
    story: tuple[int, dict[str, list[Line]], list[str]], choose: st.DataObject
) -> None:
    _, lines, living = story
    told = [(peer, at) for peer in living for at, one in enumerate(lines[peer]) if len(one["shared"]["members"]) > 1]
    if not told:
        return
    peer, at = choose.draw(st.sampled_from(told))
    wrong = lines[peer][at]
    match choose.draw(st.sampled_from(["result", "parameters", "left out"])):
        case "result":
            lines[peer][at] = {**wrong, "shared": {**wrong["shared"], "digest": -1}}
        case "parameters":
            lines[peer][at] = {**wrong, "params": "other bits"}
        case "left out":
            if at in (0, len(lines[peer]) - 1):
                return  # then it only came later, or has not told yet
            del lines[peer][at]
    others = [other for other in wrong["shared"]["members"] if other != peer]
    assert any(wrong["round"] in [one["round"] for one in lines[other]] for other in others)
    with pytest.raises(Violation):
        hear_out(in_some_order(lines, choose), living)
