"""A peer's part in gossip, message by message; and the mass of a swarm in which everything goes wrong."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lepton_p2p.gossip.account import RETRY, UNCLAIMED, Account, Share
from lepton_p2p.gossip.push_sum import Hold, Transfer
from lepton_p2p.identity import PeerId

A, B, C, D = PEERS = tuple(PeerId(f"{index:032x}") for index in range(4))


@pytest.fixture
def a() -> Account:
    return Account(A, 1.0, first=10, founding=7)


@pytest.fixture
def b() -> Account:
    return Account(B, 1.0, first=1000, founding=7)


def pushed(sender: Account, receiver: Account, now: float = 0.0) -> tuple[Transfer, Hold]:
    transfer = sender.offer(receiver.ledger.me)
    assert transfer is not None
    hold = receiver.arrived(transfer)
    assert hold is not None
    sender.sent(now, transfer.id, taken=True)
    return transfer, hold


def test_a_share_changes_hands_when_it_is_asked_for(a: Account, b: Account) -> None:
    transfer, hold = pushed(a, b)
    assert [due.id for due in b.due(0.0)] == [hold.id]
    assert a.asked_for(B, transfer.id, hold.id)
    assert not b.answered(0.1, hold.id, True)
    assert b.mix() == (Share(hold.id, 0.5, False, 7), 0.5 / 1.5)
    assert (a.weight, b.weight, a.settled, b.settled) == (0.5, 1.5, True, True)


def test_what_was_refused_or_did_not_get_through_comes_back_and_is_mixed_in(a: Account, b: Account) -> None:
    transfer = a.offer(B)
    assert transfer is not None
    a.sent(0.0, transfer.id, taken=False)
    assert a.mix() == (Share(transfer.id, 0.5, True, 7), 0.5)
    assert (a.weight, a.settled) == (1.0, True)


def test_who_got_it_although_the_sender_does_not_know_is_told_no(a: Account, b: Account) -> None:
    transfer, hold = pushed(a, b)
    a.recall()
    assert not a.asked_for(B, transfer.id, hold.id)
    b.due(0.0)
    assert b.answered(0.0, hold.id, False), "its value is not needed"
    assert b.settled
    assert b.lost == 0.0


def test_a_question_without_an_answer_is_asked_again_and_not_at_once(a: Account, b: Account) -> None:
    _, hold = pushed(a, b)
    assert len(b.due(0.0)) == 1
    assert b.due(5.0) == [], "it is under way"
    b.answered(6.0, hold.id, None)
    assert b.due(6.0) == []
    assert [due.id for due in b.due(6.0 + RETRY)] == [hold.id]


def test_what_is_not_asked_for_comes_back_after_a_while(a: Account, b: Account) -> None:
    pushed(a, b, now=1.0)
    a.due(1.0 + UNCLAIMED)
    assert not a.inbox
    a.due(1.1 + UNCLAIMED)
    assert [share.weight for share in a.inbox] == [0.5]


def test_what_a_dead_partner_holds_comes_back(a: Account, b: Account) -> None:
    transfer, hold = pushed(a, b)
    assert a.gone(B) == []
    assert [share.weight for share in a.inbox] == [0.5]
    assert not a.asked_for(B, transfer.id, hold.id), "it was alive after all"


def test_of_a_dead_sender_only_what_was_asked_for_may_be_lost(a: Account, b: Account) -> None:
    _, asked = pushed(a, b)
    b.due(0.0)
    _, unasked = pushed(a, b)
    assert [hold.id for hold in b.gone(A)] == [asked.id, unasked.id]
    assert (b.lost, b.settled) == (0.5, True)
    assert not b.answered(1.0, asked.id, True), "too late"
    assert not b.inbox


def test_a_peer_that_others_believed_dead_keeps_its_weight(a: Account, b: Account) -> None:
    a.gone(B)
    b.gone(A)
    assert (a.weight, b.weight) == (1.0, 1.0)


def gives(donor: Account, asker: Account) -> float:
    """The share of what ``asker`` is given in the mix."""
    transfer, hold = pushed(donor, asker)
    asker.due(0.0)
    donor.asked_for(asker.ledger.me, transfer.id, hold.id)
    asker.answered(0.0, hold.id, True)
    found = asker.mix()
    assert found is not None
    return found[1]


def test_who_was_dropped_has_no_say_until_somebody_gives_it_weight(a: Account, b: Account) -> None:
    b.dropped()
    assert (b.weight, b.offer(A), b.wants(A)) == (0.0, None, False)
    assert gives(a, b) == 0.5 / 1.5
    assert (b.weight, b.ledger.given_up) == (1.5, 0.0), "both sides of a split keep what they did"


def test_who_was_dropped_with_a_training_of_its_own_gives_that_up(a: Account) -> None:
    b = Account(B, 1.0, first=1000, founding=3)
    b.dropped()
    assert gives(a, b) == 1.0, "the whole value is the donor's"
    assert (b.weight, b.ledger.given_up, b.founding) == (0.5, 1.0, 7)


def test_a_newcomer_has_a_share_of_what_its_donor_has(a: Account) -> None:
    b = Account(B, 0.0)
    assert gives(a, b) == 1.0
    b.dropped()
    gives(a, b)
    assert b.ledger.given_up == 0.0


def test_two_that_began_apart_and_both_have_a_say_become_one(a: Account) -> None:
    b = Account(B, 1.0, first=1000, founding=9)
    gives(b, a)
    assert (a.founding, a.weight, a.ledger.given_up) == (9, 1.5, 0.0)


def test_what_comes_back_to_one_that_was_dropped_is_no_donors(b: Account) -> None:
    transfer = b.offer(A)
    assert transfer is not None
    b.sent(0.0, transfer.id, taken=False)
    b.dropped()
    assert b.mix() == (Share(transfer.id, 0.5, True, 7), 0.5)
    assert (b.weight, b.ledger.weight) == (0.0, 1.0)


def test_if_nobody_has_any_weight_that_of_the_dropped_counts_again(b: Account) -> None:
    b.dropped()
    for _ in range(2):
        b.told(A, False)
    assert not b.nobody_has_any([A], 3)
    b.told(A, False)
    assert not b.nobody_has_any([A], 3)
    assert b.weight == 1.0


def test_who_was_dropped_and_is_alone_now_goes_on_with_what_it_has(b: Account) -> None:
    b.dropped()
    assert not b.nobody_has_any([], 3)
    assert b.weight == 1.0


def test_who_has_nothing_knows_when_nobody_has() -> None:
    b = Account(B, 0.0)
    assert not b.nobody_has_any([], 1), "there may be somebody"
    b.told(A, True)
    b.told(A, False)
    assert not b.nobody_has_any([A], 2)
    b.told(A, False)
    assert b.nobody_has_any([A], 2)


def next_partner(account: Account, alive: set[PeerId], *, due: bool = False) -> PeerId | None:
    return account.next_partner(alive, due=due, choose=lambda peers: peers[-1])


def test_anybody_is_pushed_to_if_it_is_due(a: Account) -> None:
    assert [next_partner(a, {B, C}, due=due) for due in (True, False)] == [C, None]
    assert next_partner(a, set(), due=True) is None


def test_everybody_is_asked_in_turn(a: Account) -> None:
    assert [a.next_donor({C, B}) for _ in range(3)] == [B, C, B]
    assert a.next_donor(()) is None


def test_who_asks_is_owed_once(a: Account) -> None:
    assert a.wants(B)
    assert a.wants(C)
    assert next_partner(a, {C}) == C
    assert next_partner(a, {B, C}) is None, "B was gone when it was its turn"


def test_who_has_closed_takes_nothing_and_gives_what_it_has_promised(a: Account, b: Account) -> None:
    transfer, hold = pushed(a, b)
    a.close()
    assert a.asked_for(B, transfer.id, hold.id)
    assert a.arrived(Transfer(B, 1, 0.5)) is None
    assert a.wants(B)
    assert next_partner(a, {B}) is None


@dataclass
class Question:
    """One that is under way, with what will be answered."""

    asker: Account
    hold: Hold
    answer: bool | None = None


class Swarm(RuleBasedStateMachine):
    """Four peers and a network that loses, repeats and reorders everything; deaths, real and imagined; rebirths.

    The book: what is ``given`` and not yet heard of, what has ``entered``, and what is ``gone``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.lives = 0
        self.entered = self.gone = 0.0
        self.alive: dict[PeerId, Account] = {}
        self.sent: list[tuple[PeerId, Transfer]] = []
        self.questions: list[Question] = []
        self.given: dict[tuple[PeerId, int], float] = {}
        for peer in PEERS:
            self.enter(peer)

    def enter(self, peer: PeerId) -> None:
        self.lives += 1
        self.alive[peer] = Account(peer, 1.0, first=self.lives << 32, founding=self.lives % 2 + 1)
        self.entered += 1.0

    def one(self, data: st.DataObject) -> Account:
        return self.alive[data.draw(st.sampled_from(sorted(self.alive)))]

    @rule(data=st.data())
    def push(self, data: st.DataObject) -> None:
        partner = data.draw(st.sampled_from(PEERS))
        transfer = self.one(data).offer(partner)
        if transfer is not None:
            self.sent.append((partner, transfer))

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), taken=st.none() | st.booleans())
    def deliver(self, data: st.DataObject, taken: bool | None) -> None:
        """Perhaps again; and the sender hears what is true, or that it failed."""
        partner, transfer = data.draw(st.sampled_from(self.sent))
        held = partner in self.alive and self.alive[partner].arrived(transfer) is not None
        if transfer.sender in self.alive and taken is not None:
            self.alive[transfer.sender].sent(self.now, transfer.id, taken=held and taken)

    @rule(data=st.data(), seconds=st.floats(0, 2 * UNCLAIMED))
    def ask(self, data: st.DataObject, seconds: float) -> None:
        self.now += seconds
        asker = self.one(data)
        self.questions += [Question(asker, hold) for hold in asker.due(self.now)]

    @precondition(lambda self: self.questions)
    @rule(data=st.data())
    def hear(self, data: st.DataObject) -> None:
        """The sender gets a question, perhaps again."""
        question = data.draw(st.sampled_from(self.questions))
        asker, hold = question.asker, question.hold
        sender = self.alive.get(hold.transfer.sender)
        if sender is None:
            return
        before = hold.transfer.id in sender.ledger.in_flight
        question.answer = sender.asked_for(asker.ledger.me, hold.transfer.id, hold.id)
        if before and question.answer:
            there = self.alive.get(asker.ledger.me) is asker and hold.id in asker.ledger.holds
            self.given[asker.ledger.me, hold.id] = hold.transfer.weight
            if not there:
                self.gone += self.given.pop((asker.ledger.me, hold.id))

    @precondition(lambda self: self.questions)
    @rule(data=st.data(), lost=st.booleans())
    def answer(self, data: st.DataObject, lost: bool) -> None:
        question = data.draw(st.sampled_from(self.questions))
        self.questions.remove(question)
        asker, hold = question.asker, question.hold
        if self.alive.get(asker.ledger.me) is asker:
            answer = None if lost else question.answer
            there = hold.id in asker.ledger.holds
            asker.answered(self.now, hold.id, answer)
            if there and answer:
                self.given.pop((asker.ledger.me, hold.id))

    @rule(data=st.data())
    def mix(self, data: st.DataObject) -> None:
        account = self.one(data)
        before = account.ledger.given_up
        while account.mix() is not None:
            pass
        self.gone += account.ledger.given_up - before

    @rule(data=st.data())
    def believe_dead(self, data: st.DataObject) -> None:
        """Rightly or not.  What is lost by that is told, and perhaps more."""
        who = self.one(data)
        told, lost = who.lost, 0.0
        for hold in who.gone(data.draw(st.sampled_from(PEERS))):
            lost += self.given.pop((who.ledger.me, hold.id), 0.0)
        self.gone += lost
        assert who.lost - told >= lost

    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        self.one(data).dropped()

    @precondition(lambda self: len(self.alive) > 2)
    @rule(data=st.data(), again=st.booleans())
    def die(self, data: st.DataObject, again: bool) -> None:
        """Perhaps another process with the same credentials comes at once."""
        account = self.one(data)
        peer, ledger = account.ledger.me, account.ledger
        del self.alive[peer]
        self.gone += ledger.weight + ledger.waiting + sum(weight for _, weight in ledger.in_flight.values())
        for key in [key for key in self.given if key[0] == peer]:
            self.gone += self.given.pop(key)
        if again:
            self.enter(peer)

    @invariant()
    def mass_is_conserved(self) -> None:
        ledgers = [account.ledger for account in self.alive.values()]
        here = sum(ledger.weight + ledger.waiting for ledger in ledgers)
        here += sum(weight for ledger in ledgers for _, weight in ledger.in_flight.values())
        assert here + sum(self.given.values()) + self.gone == self.entered
        assert all(ledger.weight > 0 for ledger in ledgers)


TestSwarm = Swarm.TestCase
TestSwarm.settings = settings(max_examples=120, stateful_step_count=60, deadline=None)
