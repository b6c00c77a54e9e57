"""A good round is one that all of them told, after the moment, and to which all of them contributed."""

from __future__ import annotations

import pytest

from chaos.lineages import History
from chaos.stories import line
from chaos.watches import Watches

A, B, C = "aaaaaaaa", "bbbbbbbb", "cccccccc"
NAMES = {"one": A, "two": B}


def history_with(watches: Watches) -> History:
    history = History()
    history.on_told = watches.look
    return history


def test_a_round_is_good_when_the_last_of_them_has_told_it() -> None:
    watches = Watches()
    watch = watches.add(10.0, NAMES)
    history = history_with(watches)
    history.told("one", line(1, [A, B], at=11.0))
    assert watch.done is None
    history.told("two", line(1, [A, B], at=12.5))
    assert watch.done == 12.5
    assert watch.seconds == 2.5
    for peer in NAMES:
        history.told(peer, line(2, [A, B], at=20.0))
    assert watch.done == 12.5, "the first one counts"


def test_what_was_told_before_the_moment_is_not_good() -> None:
    watches = Watches()
    watch = watches.add(10.0, NAMES)
    history = history_with(watches)
    history.told("one", line(1, [A, B], at=9.0))
    history.told("two", line(1, [A, B], at=11.0))
    assert watch.done is None


def test_a_round_without_the_numbers_of_one_of_them_is_not_good() -> None:
    watches = Watches()
    watch = watches.add(0.0, NAMES)
    history = history_with(watches)
    joins = line(1, [A, B], at=1.0)
    joins["shared"]["contributors"] = [A]
    for peer in NAMES:
        history.told(peer, dict(joins))
    assert watch.done is None


@pytest.mark.parametrize("whole", [True, False])
def test_while_somebody_has_something_to_bring_in_the_swarm_is_not_whole(whole: bool) -> None:
    watches = Watches()
    watch = watches.add(0.0, NAMES, whole=whole)
    history = history_with(watches)
    for number, carries in ((1, [B]), (2, [])):
        for peer in NAMES:
            history.told(peer, line(number, [A, B], at=float(number), carries=carries))
    assert watch.done == (2.0 if whole else 1.0)


def test_a_round_with_the_dead_in_it_does_not_show_that_the_others_go_on() -> None:
    watches = Watches()
    watch = watches.add(0.0, NAMES, gone={C})
    history = history_with(watches)
    for number, members in ((1, [A, B, C]), (2, [A, B])):
        for peer in NAMES:
            history.told(peer, line(number, members, epoch=number, at=float(number)))
    assert watch.done == 2.0
