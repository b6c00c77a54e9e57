"""Where claims are signed: what is believed, what is dropped, and what a member that lies can do."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keyed_claims import Register
from swim_bench import ME, Bench, alive, events, fact, sent, signed
from swim_network import Network, info

from lepton_p2p.membership import (
    Ack,
    DeclaredDead,
    Died,
    Gossip,
    Joined,
    Left,
    Packet,
    Ping,
    Refused,
    Rumour,
    Status,
    Suspected,
    Sync,
    Trusted,
)

LIAR = 3
"""A member of the swarm, with a valid certificate, who tells what it likes."""


class Signed(Bench):
    """Knows 1, 2 and 3; ``told``: what one of them says in the hearing of this peer."""

    def __init__(self) -> None:
        self.register = Register()
        super().__init__(3, register=self.register)

    def told(self, *rumours: Rumour, by: int = LIAR) -> list[object]:
        return list(events(self.hear(by, Gossip(), *rumours)))

    def wait_for_the_death_of(self, number: int) -> None:
        """Whatever else happens meanwhile."""
        while self.status(number) is not Status.DEAD:
            self.fire(min(self.armed, key=lambda key: self.armed[key]))

    def dropped(self, *rumours: Rumour, forged: bool = True) -> None:
        """``rumours`` change nothing but a count."""
        before, refused = self.machine.view(), self.machine.refused
        [*_, last] = happened = self.told(*rumours)
        assert all(isinstance(event, Refused) for event in happened)
        assert isinstance(last, Refused)
        assert (last.sender, last.forged) == (info(LIAR), forged)
        assert self.machine.view() == before
        assert self.machine.refused == refused + 1


@pytest.fixture
def bench() -> Signed:
    return Signed()


class TestWordsOfTheSubject:
    def test_one_that_others_vouch_for_joins(self, bench: Signed) -> None:
        assert bench.told(signed(bench.register, alive(7))) == [Joined(info(7))]

    def test_an_unsigned_claim_is_dropped(self, bench: Signed) -> None:
        bench.register.notary(info(7).id)
        bench.dropped(alive(7))
        bench.dropped(fact(1, Status.LEFT))

    def test_nobody_invents_members(self, bench: Signed) -> None:
        invented = signed(bench.register, alive(8))
        bench.register.members.remove(info(8).id)
        bench.dropped(invented, forged=False)

    def test_nobody_raises_anothers_incarnation(self, bench: Signed) -> None:
        bench.dropped(replace(signed(bench.register, alive(1)), incarnation=5))

    def test_nobody_moves_another_to_a_different_address(self, bench: Signed) -> None:
        honest = signed(bench.register, alive(1, 1))
        bench.dropped(replace(honest, peer=replace(honest.peer, address="192.0.2.1:1")))

    def test_nobody_makes_another_leave(self, bench: Signed) -> None:
        bench.dropped(replace(signed(bench.register, alive(1)), status=Status.LEFT))
        assert bench.told(signed(bench.register, fact(1, Status.LEFT))) == [Left(info(1))], "but for itself"

    def test_a_word_of_another_swarm_is_worth_nothing(self, bench: Signed) -> None:
        bench.register.notary(info(7).id)
        bench.dropped(signed(Register("another swarm"), alive(7)))

    def test_an_old_word_does_not_undo_a_newer_one(self, bench: Signed) -> None:
        bench.told(signed(bench.register, alive(1, 4)))
        before = bench.machine.view()
        for old in (alive(1, 3), fact(1, Status.SUSPECT, 3, origin=2)):
            assert bench.told(signed(bench.register, old)) == []
        assert bench.machine.view() == before

    def test_the_dead_do_not_rise_by_an_old_word(self, bench: Signed) -> None:
        bench.accuse(1)
        bench.wait_for_the_death_of(1)
        assert bench.told(signed(bench.register, alive(1))) == []
        assert bench.told(signed(bench.register, alive(1, 1))) == [Joined(info(1))]

    def test_of_a_revoked_one_nothing_is_believed(self, bench: Signed) -> None:
        late = signed(bench.register, alive(1, 2))
        bench.register.barred.add(info(1).id)
        bench.dropped(late, forged=False)


class TestAccusations:
    def test_a_member_may_suspect_another(self, bench: Signed) -> None:
        [suspected] = bench.told(signed(bench.register, fact(1, Status.SUSPECT, origin=2)))
        assert isinstance(suspected, Suspected)
        assert suspected.by == info(2).id

    def test_nobody_accuses_in_anothers_name(self, bench: Signed) -> None:
        bench.dropped(replace(signed(bench.register, fact(1, Status.SUSPECT, origin=LIAR)), origin=info(2).id))

    def test_an_unsigned_accusation_is_dropped(self, bench: Signed) -> None:
        bench.dropped(replace(signed(bench.register, fact(1, Status.SUSPECT, origin=2)), accusation=b""))

    def test_an_accusation_is_of_an_incarnation_that_the_accused_has_reached(self, bench: Signed) -> None:
        made_up = fact(1, Status.SUSPECT, 9, origin=LIAR)
        bench.dropped(signed(bench.register, made_up, word=alive(1, 0)))

    def test_who_is_no_member_accuses_nobody(self, bench: Signed) -> None:
        bench.dropped(signed(bench.register, fact(1, Status.SUSPECT, origin=9)), forged=False)

    def test_who_has_left_accuses_nobody(self, bench: Signed) -> None:
        accusation = signed(bench.register, fact(1, Status.SUSPECT, origin=2))
        bench.told(signed(bench.register, fact(2, Status.LEFT)))
        bench.dropped(accusation, forged=False)

    def test_who_was_revoked_accuses_nobody(self, bench: Signed) -> None:
        accusation = signed(bench.register, fact(1, Status.SUSPECT, origin=2))
        bench.register.barred.add(info(2).id)
        bench.dropped(accusation, forged=False)

    def test_what_the_accused_says_of_itself_stands_all_the_same(self, bench: Signed) -> None:
        newer = signed(bench.register, fact(1, Status.SUSPECT, 4, origin=9))
        refused, *_ = bench.told(newer)
        assert isinstance(refused, Refused)
        assert bench.status(1) is Status.ALIVE
        assert next(view for view in bench.machine.view() if view.peer == info(1)).incarnation == 4

    @pytest.mark.parametrize("body", ["gossip", "sync"])
    def test_nobodys_verdict_ends_a_member_it_counts_as_a_suspicion(self, bench: Signed, body: str) -> None:
        verdict = signed(bench.register, fact(1, Status.DEAD, origin=LIAR))
        happened = bench.told(verdict) if body == "gossip" else events(bench.hear(LIAR, Sync((verdict,), reply=False)))
        [suspected] = happened
        assert isinstance(suspected, Suspected)
        assert bench.told(signed(bench.register, alive(1, 1)), by=1) == [Trusted(info(1))]

    def test_a_suspicion_is_not_made_a_verdict_on_the_way(self, bench: Signed) -> None:
        bench.dropped(replace(signed(bench.register, fact(1, Status.SUSPECT, origin=2)), status=Status.DEAD))

    def test_a_suspicion_that_was_a_verdict_can_be_checked_by_whoever_hears_it_next(self, bench: Signed) -> None:
        bench.told(signed(bench.register, fact(1, Status.DEAD, origin=2)))
        told = [rumour for _, packet in sent(bench.fire("gossip")) for rumour in packet.rumours]
        about = {rumour for rumour in told if rumour.peer == info(1)}
        assert {(rumour.status, rumour.origin) for rumour in about} == {(Status.SUSPECT, info(2).id)}
        assert all(map(bench.register.holds, about))

    def test_independent_accusers_are_told_on_with_their_signatures(self, bench: Signed) -> None:
        for accuser in (2, LIAR):
            bench.told(signed(bench.register, fact(1, Status.SUSPECT, origin=accuser)), by=2)
            told = {rumour for _, packet in sent(bench.fire("gossip")) for rumour in packet.rumours}
            assert info(accuser).id in {rumour.origin for rumour in told if rumour.peer == info(1)}
            assert all(map(bench.register.holds, told))


class TestAboutThisPeer:
    def test_it_refutes_with_its_signature(self, bench: Signed) -> None:
        bench.told(signed(bench.register, fact(0, Status.SUSPECT, origin=2)))
        assert bench.machine.incarnation == 1
        told = [rumour for _, packet in sent(bench.fire("gossip")) for rumour in packet.rumours]
        refutations = [rumour for rumour in told if rumour.peer == ME]
        assert refutations
        assert all(rumour.incarnation == 1 and bench.register.holds(rumour) for rumour in refutations)

    def test_it_refutes_an_accuser_that_it_does_not_know(self, bench: Signed) -> None:
        assert DeclaredDead() in bench.told(signed(bench.register, fact(0, Status.DEAD, origin=9)))
        assert bench.machine.incarnation == 1

    @pytest.mark.parametrize("status", [Status.ALIVE, Status.SUSPECT, Status.DEAD])
    def test_nobody_makes_it_raise_its_incarnation_by_a_forgery(self, bench: Signed, status: Status) -> None:
        origin = 0 if status is Status.ALIVE else LIAR
        forged = signed(bench.register, fact(0, status, 9, origin=origin), word=alive(0, 0))
        bench.dropped(forged)
        assert bench.machine.incarnation == 0


class TestMeeting:
    def test_one_that_calls_is_asked_for_its_word(self, bench: Signed) -> None:
        effects = bench.hear(7, Ping(5, ME.id))
        assert events(effects) == []
        assert bench.status(7) is None
        [(to, packet)] = sent(effects, Ping)
        assert (to, packet.body) == (info(7).address, Ping(0, info(7).id))
        assert sent(effects, Ack), "and answered"
        assert events(bench.hear(7, Ack(0), signed(bench.register, alive(7, 2)))) == [Joined(info(7))]

    def test_one_that_is_asked_for_its_word_gives_it(self, bench: Signed) -> None:
        [(_, packet)] = sent(bench.hear(7, Ping(0, ME.id)), Ack)
        [word] = [rumour for rumour in packet.rumours if rumour.peer == ME]
        assert bench.register.holds(word)

    def test_one_that_introduces_itself_is_not_asked(self, bench: Signed) -> None:
        effects = bench.hear(7, Sync((signed(bench.register, alive(7)),), reply=True))
        assert Joined(info(7)) in events(effects)
        assert not sent(effects, Ping)

    def test_an_old_process_at_an_address_is_gone_when_the_new_one_answers_there(self, bench: Signed) -> None:
        new = signed(bench.register, Rumour(info(9, address=info(1).address), Status.ALIVE, 0, info(9).id))
        effects = bench.hear(2, Gossip(), new)
        assert sent(effects, Ping)
        assert bench.status(1) is Status.ALIVE
        [died] = events(bench.hear(new.peer, Ack(0)))
        assert isinstance(died, Died)

    def test_in_a_full_exchange_the_living_count_before_they_accuse(self, bench: Signed) -> None:
        accusation = signed(bench.register, fact(1, Status.SUSPECT, origin=5))
        bench.hear(2, Sync((accusation, signed(bench.register, alive(5))), reply=False))
        assert bench.status(1) is Status.SUSPECT


def test_after_a_forgery_nothing_else_of_a_packet_is_looked_at(bench: Signed) -> None:
    forged = replace(signed(bench.register, alive(1)), incarnation=3)
    bench.dropped(forged, forged, signed(bench.register, fact(2, Status.SUSPECT, origin=LIAR)))


def test_everything_that_this_peer_tells_can_be_checked(bench: Signed) -> None:
    bench.accuse(1)
    bench.wait_for_the_death_of(1)
    bench.hear(2, Gossip(), signed(bench.register, alive(2, 5)))
    bench.accuse(2)
    bench.hear(LIAR, Gossip(), signed(bench.register, alive(LIAR, 5)))
    [(_, packet)] = sent(bench.hear(LIAR, Sync((), reply=True)), Sync)
    assert isinstance(packet.body, Sync)
    assert {rumour.status for rumour in packet.body.members} == {Status.ALIVE, Status.SUSPECT, Status.DEAD}
    assert all(map(bench.register.holds, packet.body.members))
    goodbye = [rumour for _, last in sent(bench.machine.leave(bench.now)) for rumour in last.rumours]
    assert Status.LEFT in {rumour.status for rumour in goodbye if rumour.peer == ME}
    assert all(map(bench.register.holds, goodbye))


SPOILT: dict[str, Callable[[Rumour], Rumour]] = {
    "status": lambda r: replace(r, status=Status((r.status + 1) % 4)),
    "incarnation": lambda r: replace(r, incarnation=r.incarnation + 1),
    "address": lambda r: replace(r, peer=replace(r.peer, address="192.0.2.9:9")),
    "subject": lambda r: replace(r, peer=replace(r.peer, id=info(2).id)),
    "origin": lambda r: replace(r, origin=info(2).id),
    "word": lambda r: replace(r, word=r.word[:-1] + bytes([r.word[-1] ^ 1])),
}


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("spoil", SPOILT)
def test_a_claim_of_which_anything_is_changed_touches_nothing(bench: Signed, status: Status, spoil: str) -> None:
    origin = LIAR if status in (Status.SUSPECT, Status.DEAD) else 1
    honest = signed(bench.register, fact(1, status, 7, origin=origin))
    if (status, spoil) == (Status.DEAD, "status"):
        spoilt = replace(honest, status=Status.LEFT)
    elif (status, spoil) == (Status.LEFT, "status"):
        spoilt = replace(honest, status=Status.DEAD)
    else:
        spoilt = SPOILT[spoil](honest)
    before = {view.peer: view.status for view in bench.machine.view()}
    assert any(isinstance(event, Refused) for event in bench.told(spoilt))
    assert {view.peer: view.status for view in bench.machine.view()} == before


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), rate=st.integers(1, 20))
def test_a_member_that_floods_forged_claims_costs_nobody_anything(seed: int, rate: int) -> None:
    """It also accuses in its own name all the time, which it may: the accused refutes."""
    network = Network(seed)
    network.signed = True
    *honest, liar = network.swarm(6)
    network.run_until(network.agreed, within=10)
    victim, rng = honest[1].me, random.Random(seed)
    mine = network.register.notary(liar.me.id)
    for _ in range(60):
        view = rng.choice(list(honest[0].machine.members))
        lies = [
            replace(
                view.fact,
                status=rng.choice(list(Status)),
                incarnation=rng.randrange(9),
                origin=rng.choice(honest).me.id,
            )
            for _ in range(rate)
        ]
        word = next(v.fact for v in honest[0].machine.members if v.peer == victim)
        dead = mine.sign(replace(word, status=Status.DEAD, origin=liar.me.id))
        for node in honest:
            network.slip_in(node, Packet(liar.me, Gossip(), tuple(lies)))
            network.slip_in(node, Packet(liar.me, Gossip(), (dead,)))
        network.run(0.5)
    network.run(10)
    assert network.agreed()
    assert sum(node.machine.refused for node in honest) > 0
    for node in honest:
        assert not node.saw(Died)
        assert not node.saw(Left)
        assert {event.peer for event in node.saw(Joined)} == {n.me for n in (*honest, liar) if n is not node}
