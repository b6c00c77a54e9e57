"""Push-sum weights: the total over the living is conserved under loss, repetition and death."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lepton_p2p.identity import PeerId
from lepton_p2p.training.push_sum import Ledger, Transfer, Verdict, total

PEERS = tuple(PeerId(f"{index:032x}") for index in range(5))
A, B, C = PEERS[:3]


def offered(ledger: Ledger, partner: PeerId) -> Transfer:
    transfer = ledger.offer(partner)
    assert transfer is not None
    return transfer


def test_half_is_on_its_way_until_it_is_acknowledged() -> None:
    a, b = Ledger(A, 1.0), Ledger(B, 1.0)
    transfer = offered(a, B)
    assert (a.weight, transfer.weight, total([a, b])) == (0.5, 0.5, 2.0)
    assert b.accept(transfer) is Verdict.NEW
    assert total([a, b]) == 2.0
    assert b.mix(transfer.weight) == 0.5 / 1.5
    a.acknowledged(transfer.id)
    assert (a.weight, b.weight, a.in_flight, total([a, b])) == (0.5, 1.5, {}, 2.0)


def test_a_repeated_transfer_counts_once_and_is_acknowledged_again() -> None:
    a, b = Ledger(A, 1.0), Ledger(B)
    transfer = offered(a, B)
    assert [b.accept(transfer) for _ in range(3)] == [Verdict.NEW, Verdict.DUPLICATE, Verdict.DUPLICATE]
    assert b.waiting == 0.5


def test_what_was_asked_for_and_not_seen_is_refused_when_it_comes_late() -> None:
    a, b = Ledger(A, 1.0), Ledger(B, 1.0)
    transfer = offered(a, B)
    assert not b.query(A, transfer.id)
    assert a.reclaim(transfer.id)
    assert b.accept(transfer) is Verdict.REFUSED
    assert (a.weight, b.weight, b.waiting) == (1.0, 1.0, 0.0)


def test_an_acknowledgement_that_was_lost_is_found_out_by_asking() -> None:
    a, b = Ledger(A, 1.0), Ledger(B, 1.0)
    transfer = offered(a, B)
    b.accept(transfer)
    assert b.query(A, transfer.id)
    a.acknowledged(transfer.id)
    assert total([a, b]) == 2.0


def test_a_refusal_for_lack_of_room_is_final() -> None:
    a, b = Ledger(A, 1.0), Ledger(B, 1.0)
    transfer = offered(a, B)
    assert b.accept(transfer, room=False) is Verdict.REFUSED
    assert b.accept(transfer) is Verdict.REFUSED


def test_what_a_dead_partner_did_not_acknowledge_comes_back() -> None:
    a = Ledger(A, 1.0)
    first, second = offered(a, B), offered(a, C)
    assert a.gone(B) == (first.id,)
    assert a.weight == 0.75
    assert set(a.in_flight) == {second.id}
    assert not a.reclaim(first.id), "its fate is known: a late answer changes nothing"


def test_a_peer_that_was_declared_dead_starts_again_with_nothing_and_takes_half_of_a_donors() -> None:
    a, b = Ledger(A, 1.0), Ledger(B, 1.0)
    b.accept(offered(a, B))
    a.gone(B)
    b.reset()
    assert (b.weight, b.waiting, total([a, b])) == (0.0, 0.0, 1.0)
    assert b.offer(A) is None
    transfer = offered(a, B)
    b.accept(transfer)
    assert b.mix(transfer.weight) == 1.0, "the whole value is the donor's"
    assert (a.weight, b.weight) == (0.5, 0.5)


@pytest.mark.parametrize("weight", [0.0, 1e-30, 1e30])
def test_a_made_up_weight_is_refused(weight: float) -> None:
    b = Ledger(B, 1.0)
    assert b.accept(Transfer(A, 1, weight)) is Verdict.REFUSED
    assert b.waiting == 0.0


def test_weight_does_not_run_out_by_pushing() -> None:
    a = Ledger(A, 1.0)
    for _ in range(200):
        transfer = a.offer(B)
        if transfer:
            a.acknowledged(transfer.id)
    assert a.weight > 0


def test_a_receiver_forgets_what_is_settled() -> None:
    a, b = Ledger(A, 1.0), Ledger(B)
    for _ in range(30):
        transfer = offered(a, B)
        b.accept(transfer)
        b.mix(transfer.weight)
        a.acknowledged(transfer.id)
        a.weight, b.weight = 1.0, 0.0
    assert len(b._received[A].taken) <= 2


@dataclass
class Wire:
    """Transfers may be delivered any number of times, in any order; answers may be lost."""

    sent: list[tuple[PeerId, Transfer]] = field(default_factory=list)


class Network(RuleBasedStateMachine):
    """Five peers, a wire that loses and repeats, deaths that all survivors learn of."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = {peer: Ledger(peer, 1.0) for peer in PEERS}
        self.expected = 5.0
        self.wire = Wire()
        self.waiting: dict[PeerId, list[float]] = {peer: [] for peer in PEERS}

    @rule(data=st.data())
    def push(self, data: st.DataObject) -> None:
        sender, partner = (data.draw(st.sampled_from(sorted(self.alive))) for _ in range(2))
        transfer = self.alive[sender].offer(partner)
        if transfer is not None:
            self.wire.sent.append((partner, transfer))

    @precondition(lambda self: self.wire.sent)
    @rule(data=st.data(), answer_arrives=st.booleans(), room=st.booleans())
    def deliver(self, data: st.DataObject, answer_arrives: bool, room: bool) -> None:
        partner, transfer = data.draw(st.sampled_from(self.wire.sent))
        if partner not in self.alive:
            return
        verdict = self.alive[partner].accept(transfer, room=room)
        if verdict is Verdict.NEW:
            self.waiting[partner].append(transfer.weight)
        sender = self.alive.get(transfer.sender)
        if sender is None and verdict is Verdict.NEW:
            self.expected += transfer.weight  # it left its sender before that died: it lives on here
        if sender is not None and answer_arrives:
            _ = sender.reclaim(transfer.id) if verdict is Verdict.REFUSED else sender.acknowledged(transfer.id)

    @precondition(lambda self: self.wire.sent)
    @rule(data=st.data(), answer_arrives=st.booleans())
    def ask(self, data: st.DataObject, answer_arrives: bool) -> None:
        partner, transfer = data.draw(st.sampled_from(self.wire.sent))
        sender, receiver = self.alive.get(transfer.sender), self.alive.get(partner)
        if sender is None or receiver is None or transfer.id not in sender.in_flight:
            return
        seen = receiver.query(transfer.sender, transfer.id)
        if answer_arrives:
            _ = sender.acknowledged(transfer.id) if seen else sender.reclaim(transfer.id)

    @rule(data=st.data())
    def mix(self, data: st.DataObject) -> None:
        peer = data.draw(st.sampled_from(sorted(self.alive)))
        for weight in self.waiting[peer]:
            self.alive[peer].mix(weight)
        self.waiting[peer].clear()

    @precondition(lambda self: len(self.alive) > 2)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        peer = data.draw(st.sampled_from(sorted(self.alive)))
        before = total(self.alive.values())
        dead = self.alive.pop(peer)
        # Gone with it: what it held, and what nobody had accepted yet; and what others had in flight to it comes back.
        lost = dead.weight + dead.waiting
        for number, (to, weight) in dead.in_flight.items():
            known = self.alive[to]._received.get(peer) if to in self.alive else None
            lost += 0.0 if known is not None and number in known.taken else weight
        for ledger in self.alive.values():
            for number, (to, weight) in ledger.in_flight.items():
                known = dead._received.get(ledger.me)
                if to == peer and known is not None and number in known.taken:
                    lost -= weight  # unacknowledged: counted at the dead, taken back by the sender
            ledger.gone(peer)
        self.expected = before - lost

    @invariant()
    def the_total_over_the_living_is_conserved(self) -> None:
        assert total(self.alive.values()) == pytest.approx(self.expected, rel=1e-9)
        assert all(ledger.weight > 0 for ledger in self.alive.values())


TestNetwork = Network.TestCase
TestNetwork.settings = settings(max_examples=120, stateful_step_count=60, deadline=None)
