"""Tickets: random, good once, for a while, and never too many of them."""

from __future__ import annotations

from lepton_p2p.identity import PeerId
from lepton_p2p.transport.links.keys import LinkKeys
from lepton_p2p.transport.links.purpose import Purpose
from lepton_p2p.transport.links.tickets import MAX_EACH, MAX_OUTSTANDING, TOKEN_BYTES, Claim, TicketBook

CLAIM = Claim(PeerId("a" * 32), Purpose.RING)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def with_keys(remote: int = 0) -> tuple[Claim, bytearray, bytearray]:
    secrets = bytearray(b"a" * 32), bytearray(b"b" * 32)
    return Claim(PeerId(f"{remote:032x}"), Purpose.RING, LinkKeys(*secrets)), *secrets


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
    for _ in range(20):
        book.issue(CLAIM)
    clock.now = 20.0
    first = book.issue(CLAIM)
    assert len(book) == 1
    for number in range(2000):
        last = book.issue(Claim(PeerId(f"{number:032x}"), Purpose.RING))
    assert len(book) == MAX_OUTSTANDING
    assert book.redeem(first) is None
    assert book.redeem(last) is not None


def test_who_asks_without_end_crowds_out_nobody_but_himself() -> None:
    book = TicketBook(lifetime=10, clock=Clock())
    other = book.issue(Claim(PeerId("b" * 32), Purpose.RING))
    tokens = [book.issue(CLAIM) for _ in range(5000)]
    assert len(book) == MAX_EACH + 1
    assert book.redeem(other) is not None
    assert [book.redeem(token) is not None for token in tokens] == [False] * (5000 - MAX_EACH) + [True] * MAX_EACH
    assert len(book) == 0


def test_the_keys_of_tickets_that_nobody_uses_are_wiped() -> None:
    clock = Clock()
    book = TicketBook(lifetime=10, clock=clock)
    claims = [with_keys() for _ in range(MAX_EACH + 1)]
    tokens = [book.issue(claim) for claim, *_ in claims]
    assert claims[0][1] == claims[0][2] == bytes(32), "crowded out"
    assert claims[1][1] == b"a" * 32
    assert book.redeem(tokens[1]) is claims[1][0]
    assert claims[1][1] == b"a" * 32, "the link has them now"
    clock.now = 10.0
    assert book.redeem(tokens[2]) is None
    assert claims[2][1] == bytes(32), "expired"
    book.clear()
    assert all(secret == bytes(32) for _, *secrets in claims[3:] for secret in secrets)


def test_the_tickets_of_one_remote_can_be_voided() -> None:
    book = TicketBook(lifetime=10, clock=Clock())
    claim, *secrets = with_keys(1)
    mine, other = book.issue(claim), book.issue(CLAIM)
    assert claim.remote is not None
    book.void(claim.remote)
    book.void(PeerId("c" * 32))
    assert not any(map(any, secrets)), "the keys are wiped"
    assert book.redeem(mine) is None
    assert book.redeem(other) == CLAIM
