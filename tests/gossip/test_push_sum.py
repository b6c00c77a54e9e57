"""Push-sum weights: a share is the sender's until it is asked for and given, and then the receiver's."""

from __future__ import annotations

import pytest

from lepton_p2p.gossip.push_sum import MAX_WEIGHT, QUANTUM, REMEMBERED, Hold, Ledger, Transfer
from lepton_p2p.identity import PeerId

A, B, C = (PeerId(f"{index:032x}") for index in range(3))


def offered(ledger: Ledger, partner: PeerId) -> Transfer:
    transfer = ledger.offer(partner)
    assert transfer is not None
    return transfer


def held(ledger: Ledger, transfer: Transfer) -> Hold:
    hold = ledger.hold(transfer)
    assert hold is not None
    return hold


def test_half_is_the_senders_until_the_receiver_asks_for_it() -> None:
    a, b = Ledger(A, 1.0), Ledger(B, 1.0, first=100)
    transfer = offered(a, B)
    hold = held(b, transfer)
    assert (a.weight, a.in_flight, b.waiting) == (0.5, {transfer.id: (B, 0.5)}, 0.0)
    assert a.give(B, transfer.id, hold.id)
    assert b.given(hold.id) == 0.5
    assert (a.in_flight, b.holds, b.waiting) == ({}, {}, 0.5)
    assert b.mix(0.5) == 0.5 / 1.5
    assert (a.weight, b.weight, b.waiting) == (0.5, 1.5, 0.0)


def test_what_came_back_is_given_to_nobody_however_often_they_ask() -> None:
    a, b = Ledger(A, 1.0), Ledger(B)
    transfer = offered(a, B)
    hold = held(b, transfer)
    assert (a.take_back(transfer.id), a.waiting) == (0.5, 0.5)
    assert not a.give(B, transfer.id, hold.id)
    assert a.take_back(transfer.id) == 0.0


def test_the_same_question_gets_the_same_answer() -> None:
    a, b = Ledger(A, 1.0), Ledger(B)
    transfer = offered(a, B)
    hold = held(b, transfer)
    assert [a.give(B, transfer.id, hold.id) for _ in range(3)] == [True] * 3
    assert [b.given(hold.id) for _ in range(3)] == [0.5, 0.0, 0.0]
    assert a.take_back(transfer.id) == 0.0


def test_a_copy_that_comes_later_is_nobodys() -> None:
    a, b = Ledger(A, 1.0), Ledger(B)
    transfer = offered(a, B)
    hold = held(b, transfer)
    assert b.hold(transfer) is None, "it is here already"
    a.give(B, transfer.id, hold.id)
    b.given(hold.id)
    assert not a.give(B, transfer.id, held(b, transfer).id)


def test_nobody_gets_what_was_sent_to_another() -> None:
    a = Ledger(A, 1.0)
    transfer = offered(a, B)
    assert not a.give(C, transfer.id, 9)
    assert a.give(B, transfer.id, 9)


def test_an_earlier_life_of_a_peer_is_not_taken_for_this_one() -> None:
    before, b = Ledger(A, 1.0, first=2**64 - 1), Ledger(B)
    hold = held(b, offered(before, B))
    after = Ledger(A, 1.0, first=77)
    later = offered(after, B)
    assert not after.give(B, hold.transfer.id, hold.id)
    assert after.give(B, later.id, held(b, later).id)


def test_of_very_old_transfers_nobody_remembers_who_got_them() -> None:
    a = Ledger(A, 1.0)
    numbers = []
    for _ in range(REMEMBERED + 1):
        numbers.append(offered(a, B).id)
        assert a.give(B, numbers[-1], 9)
        a.weight = 1.0
    assert [a.give(B, number, 9) for number in numbers[:2]] == [False, True]
    assert len(a._given) == REMEMBERED


@pytest.mark.parametrize("weight", [0.0, QUANTUM / 2, 1.5 * QUANTUM, 2 * MAX_WEIGHT, -1.0])
def test_a_made_up_weight_is_refused(weight: float) -> None:
    assert Ledger(B, 1.0).hold(Transfer(A, 1, weight)) is None


def test_weights_stay_whole_multiples_and_never_run_out_by_pushing() -> None:
    a = Ledger(A, 1.0 + QUANTUM)
    given = 0.0
    while (transfer := a.offer(B)) is not None:
        assert transfer.weight % QUANTUM == 0.0
        given += transfer.weight
        a.give(B, transfer.id, 1)
    assert (a.weight, given) == (QUANTUM, 1.0)


def test_what_is_given_up_is_told() -> None:
    a = Ledger(A, 1.0)
    a.take_back(offered(a, B).id)
    a.give_up()
    assert (a.weight, a.waiting, a.given_up) == (0.0, 0.5, 0.5)
    assert a.mix(0.5) == 1.0, "the whole value is the other one's"
