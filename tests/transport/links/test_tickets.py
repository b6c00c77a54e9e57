"""Tickets: random, good once, for a while, and never too many of them."""

from __future__ import annotations

from lepton_p2p.identity import PeerId
from lepton_p2p.transport.links.link import Purpose
from lepton_p2p.transport.links.tickets import TOKEN_BYTES, Claim, TicketBook

CLAIM = Claim(PeerId("a" * 32), Purpose.RING)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_token_tells_once_whom_it_was_issued_to() -> None:
    book = TicketBook(lifetime=10, clock=Clock())
    token = book.issue(CLAIM)
    assert len(token) == TOKEN_BYTES
    assert book.redeem(token) == CLAIM
    assert book.redeem(token) is None


def test_tokens_differ_and_others_are_unknown() -> None:
    book = TicketBook(lifetime=10, clock=Clock())
    assert len({book.issue(CLAIM) for _ in range(100)}) == 100
    assert book.redeem(bytes(TOKEN_BYTES)) is None


def test_a_token_expires() -> None:
    clock = Clock()
    book = TicketBook(lifetime=10, clock=clock)
    early, late = book.issue(CLAIM), book.issue(CLAIM)
    clock.now = 9.9
    assert book.redeem(early) == CLAIM
    clock.now = 10.0
    assert book.redeem(late) is None


def test_expired_tokens_are_dropped_and_the_oldest_go_when_there_are_too_many() -> None:
    clock = Clock()
    book = TicketBook(lifetime=10, clock=clock)
    for _ in range(100):
        book.issue(CLAIM)
    clock.now = 20.0
    first = book.issue(CLAIM)
    assert len(book) == 1
    for _ in range(5000):
        last = book.issue(CLAIM)
    assert len(book) == 1024
    assert book.redeem(first) is None
    assert book.redeem(last) == CLAIM
