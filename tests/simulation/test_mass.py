"""The book of a gossiping swarm: each way in which mass can be lost or made shows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from processes_in_memory import info

from lepton_p2p.gossip.push_sum import QUANTUM, Ledger
from lepton_p2p.identity import PeerId
from lepton_p2p.simulation.mass import Book, Mass, quanta
from lepton_p2p.simulation.oracle import INVARIANTS, Violation

A, B = info(1).id, info(2).id
ONE = Mass(quanta(1.0), 5 * quanta(1.0))
HALF = Mass(quanta(0.5), 5 * quanta(0.5))


def breaks(call: Callable[[], object], seen: str) -> None:
    assert "mass-conserved" in INVARIANTS
    with pytest.raises(Violation, match=f"^mass-conserved: .*{seen}"):
        call()


def have(book: Book, who: PeerId, weight: float, marks: int | None = None) -> None:
    book.look(who, Ledger(who, weight), 5 * quanta(weight) if marks is None else marks)


@pytest.fixture
def book() -> Book:
    """Both have 1.0."""
    book = Book()
    for who in (A, B):
        book.entered(ONE)
        have(book, who, 1.0)
    return book


def test_a_share_that_is_given_is_under_way_until_the_receiver_knows(book: Book) -> None:
    book.gave(B, 7, HALF, heard=True)
    have(book, A, 0.5)
    assert book.under_way({B}) == 1
    book.took(B, 7, HALF)
    have(book, B, 1.5)
    assert (book.moved, book.under_way({B}), book.lost) == (1, 0, 0)


def test_what_is_on_its_way_is_the_senders(book: Book) -> None:
    ledger = Ledger(A, 1.0)
    ledger.offer(B)
    book.look(A, ledger, ONE.marks)


def test_weight_that_is_there_twice(book: Book) -> None:
    breaks(lambda: have(book, B, 1.5), r"\+0.5 of weight")


def test_weight_that_is_gone(book: Book) -> None:
    breaks(lambda: have(book, B, 0.5), r"-0.5 of weight")


def test_a_value_that_is_another_with_the_same_weight(book: Book) -> None:
    breaks(lambda: have(book, B, 1.0, ONE.marks + 1), r"\+1 marks")


def test_a_peer_with_no_weight_any_more(book: Book) -> None:
    book.void(ONE)
    breaks(lambda: have(book, B, 0.0), "no weight any more")


def test_weights_that_are_no_weights() -> None:
    for weight in (-QUANTUM, QUANTUM / 2):
        breaks(lambda weight=weight: quanta(weight), "there is a weight of")  # type: ignore[misc]


def test_who_takes_what_it_was_not_given_or_takes_it_twice(book: Book) -> None:
    breaks(lambda: book.took(B, 7, HALF), "takes what nobody gave it")
    book.gave(B, 7, HALF, heard=True)
    book.took(B, 7, HALF)
    breaks(lambda: book.took(B, 7, HALF), "takes what nobody gave it")


def test_who_is_refused_what_it_was_given(book: Book) -> None:
    book.refused(B, 7)
    book.gave(B, 7, HALF, heard=True)
    breaks(lambda: book.refused(B, 7), "is refused what it was given")


def test_a_death_takes_what_it_had_and_what_it_was_given_without_knowing(book: Book) -> None:
    book.gave(B, 7, HALF, heard=True)
    have(book, A, 0.5)
    book.death(B)
    have(book, A, 0.5)
    assert (book.died, book.lost, book.under_way({B})) == (1, 1, 0)


def test_what_was_given_to_the_dead_is_lost(book: Book) -> None:
    book.gave(B, 7, HALF, heard=False)
    have(book, A, 0.5)
    assert book.lost == 1


def test_whose_sender_is_gone_loses_what_it_was_given_and_nothing_else(book: Book) -> None:
    book.gave(B, 7, HALF, heard=True)
    have(book, A, 0.5)
    assert book.released(B, [6, 7]) == 0.5
    have(book, B, 1.0)
