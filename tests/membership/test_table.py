"""Which of two facts wins."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st
from swim_network import info

from lepton_p2p.identity import PeerInfo
from lepton_p2p.membership import Rumour, Status
from lepton_p2p.membership.table import Table

OWN = info(1).id


def fact(status: Status, incarnation: int, address: str | None = None) -> Rumour:
    return Rumour(info(1, address=address), status, incarnation, OWN)


def table_with(*rumours: Rumour, capacity: int = 100) -> Table:
    table = Table(capacity)
    for now, rumour in enumerate(rumours):
        table.apply(rumour, float(now))
    return table


@given(
    claims=st.lists(
        st.tuples(st.sampled_from([Status.ALIVE, Status.SUSPECT, Status.DEAD]), st.integers(0, 4)), max_size=8
    ),
    left=st.booleans(),
    order=st.randoms(use_true_random=False),
)
def test_all_who_heard_the_same_facts_believe_the_same(
    claims: list[tuple[Status, int]], left: bool, order: object
) -> None:
    rumours = [fact(*claim) for claim in claims]
    if left:  # a goodbye carries the owner's last incarnation, which no other fact exceeds
        rumours.append(fact(Status.LEFT, max((i for _, i in claims), default=0)))
    shuffled = list(rumours)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = table_with(*rumours).get(OWN), table_with(*shuffled).get(OWN)
    assert (one and (one.status, one.incarnation)) == (other and (other.status, other.incarnation))


def test_precedence() -> None:
    """At equal incarnation the worse news; else the higher incarnation; LEFT for ever."""
    statuses = [Status.ALIVE, Status.SUSPECT, Status.DEAD]
    for (old, new), (i, j) in itertools.product(
        itertools.product(statuses, repeat=2), itertools.product(range(3), repeat=2)
    ):
        changed = table_with(fact(old, i)).apply(fact(new, j), 9.0) is not None
        assert changed == (j > i or (j == i and new > old))
        assert table_with(fact(Status.LEFT, i)).apply(fact(new, j), 9.0) is None
        assert (table_with(fact(old, i)).apply(fact(Status.LEFT, j), 9.0) is not None) == (j >= i)


def test_since_is_when_the_status_began() -> None:
    table = table_with(fact(Status.ALIVE, 0), fact(Status.ALIVE, 1), fact(Status.SUSPECT, 1))
    view = table.get(OWN)
    assert view is not None
    assert view.since == 2.0
    table.apply(fact(Status.SUSPECT, 2), 7.0)
    view = table.get(OWN)
    assert view is not None
    assert (view.incarnation, view.since) == (2, 2.0)


def test_an_address_changes_only_by_the_owners_word() -> None:
    table = table_with(fact(Status.ALIVE, 0))
    assert table.apply(fact(Status.SUSPECT, 0, "1.2.3.4:5"), 1.0) is None
    assert table.apply(fact(Status.ALIVE, 1, "1.2.3.4:5"), 1.0) is not None
    assert [view.peer for view in table.live_at("1.2.3.4:5")] == [PeerInfo(OWN, "1.2.3.4:5")]
    assert table.live_at(info(1).address) == []


def test_the_dead_are_forgotten_after_their_time_and_the_living_never() -> None:
    table = Table(100)
    table.apply(Rumour(info(1), Status.DEAD, 0, ""), 0.0)
    table.apply(Rumour(info(2), Status.LEFT, 0, info(2).id), 5.0)
    table.apply(Rumour(info(3), Status.ALIVE, 0, ""), 0.0)
    assert [view.peer for view in table.dead()] == [info(1)]
    table.forget(before=5.0)
    assert [view.peer for view in table.all()] == [info(2), info(3)]
    table.forget(before=100.0)
    assert [view.peer for view in table.all()] == [info(3)]
    assert table.live_count == 1


@given(
    st.lists(st.tuples(st.integers(1, 8), st.sampled_from(Status), st.integers(0, 3), st.integers(1, 3)), max_size=60)
)
def test_the_indices_follow_the_table(steps: list[tuple[int, Status, int, int]]) -> None:
    table = Table(5)
    for now, (number, status, incarnation, house) in enumerate(steps):
        peer = info(number, address=f"10.9.9.{house}:1")
        table.apply(Rumour(peer, status, incarnation, peer.id), float(now))
        if now % 17 == 16:
            table.forget(now - 10.0)
        views = table.all()
        live = [view for view in views if view.live]
        assert len(views) <= 5
        assert table.live_ids() == [view.peer.id for view in live]
        assert table.live_count == len(live)
        assert {v.peer.id for v in table.dead()} == {v.peer.id for v in views if v.status is Status.DEAD}
        for house_number in range(1, 4):
            address = f"10.9.9.{house_number}:1"
            assert {v.peer.id for v in table.live_at(address)} == {v.peer.id for v in live if v.peer.address == address}


@given(
    st.lists(st.tuples(st.integers(1, 6), st.sampled_from(Status), st.integers(0, 3), st.integers(1, 3)), max_size=30),
    st.tuples(st.integers(1, 6), st.sampled_from(Status), st.integers(0, 3), st.integers(1, 3)),
)
def test_a_copy_without_one_of_its_peers_lives_its_own_life(
    steps: list[tuple[int, Status, int, int]], later: tuple[int, Status, int, int]
) -> None:
    def apply(table: Table, number: int, status: Status, incarnation: int, house: int) -> None:
        peer = info(number, address=f"10.9.9.{house}:1")
        table.apply(Rumour(peer, status, incarnation, peer.id), 1.0)

    def contents(table: Table) -> tuple[object, ...]:
        at = [table.live_at(f"10.9.9.{house}:1") for house in range(1, 4)]
        return table.all(), table.live_ids(), table.live_count, table.dead(), at

    whole, one_less = Table(100), Table(100)
    apply(whole, 1, Status.ALIVE, 0, 1)
    for step in steps:
        apply(whole, *step)
        if step[0] != 1:
            apply(one_less, *step)
    before = contents(whole)
    copy = whole.without(info(1).id)
    assert contents(copy) == contents(one_less)
    apply(copy, *later)
    apply(one_less, *later)
    assert contents(copy) == contents(one_less)
    assert contents(whole) == before
