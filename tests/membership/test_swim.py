"""What one peer does with each input."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from swim_bench import ME, Bench, alive, events, fact, sent, timers
from swim_network import info

from lepton_p2p.errors import AddressError
from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.membership import (
    Ack,
    Gossip,
    Joined,
    Left,
    Nack,
    Packet,
    Ping,
    PingRequest,
    Rumour,
    Status,
    Swim,
    SwimConfig,
    Sync,
    Table,
)
from lepton_p2p.membership.table import MAX_INCARNATION
from lepton_p2p.sansio import CancelTimer, Emit, Send


def test_before_it_starts_it_is_inert() -> None:
    machine = Swim(ME, SwimConfig(), random.Random(0))
    assert machine.receive(0.0, Packet(info(1), Ping(1, ME.id))) == []
    assert machine.timer(0.0, "probe") == []
    assert machine.accuse(0.0, info(1).id, "x") == []
    assert machine.leave(0.0) == []


def test_it_starts_once() -> None:
    bench = Bench()
    with pytest.raises(RuntimeError):
        bench.machine.start(1.0)


def test_a_seed_that_is_no_address_is_refused_in_clear_words() -> None:
    with pytest.raises(AddressError, match="write HOST:PORT"):
        Swim(ME, SwimConfig(), random.Random(0)).start(0.0, ["nonsense"])


def test_with_a_table_it_is_no_newcomer() -> None:
    table = Table(100)
    for number in range(1, 9):
        table.apply(alive(number), 0.0)
    machine = Swim(ME, SwimConfig(), random.Random(0), table)
    effects = machine.start(100.0)
    assert events(effects) == []
    assert [view.peer for view in machine.members] == [ME, *(info(number) for number in range(1, 9))]
    assert 0.75 * 30.0 <= timers(effects)["sync"] - 100.0 <= 1.25 * 30.0
    assert sent(machine.timer(timers(effects)["probe"], "probe"), Ping)


def test_a_newcomer_does_not_tell_the_swarm_what_the_swarm_told_it() -> None:
    bench = Bench()
    before = fact(9, Status.ALIVE)
    before = replace(before, peer=replace(before.peer, address=ME.address))  # who was here before it
    bench.hear(1, Sync((alive(1), *(alive(number) for number in range(2, 8)), before), reply=False))
    assert [view.peer for view in bench.machine.members] == [ME, *(info(number) for number in range(1, 8))]
    told = {rumour for _, packet in sent(bench.fire("gossip")) for rumour in packet.rumours}
    assert {(rumour.peer.id, rumour.status) for rumour in told} == {
        (info(1).id, Status.ALIVE),
        (info(9).id, Status.DEAD),
    }


def test_who_knows_others_tells_them_of_those_that_it_was_told_of() -> None:
    bench = Bench(2)
    bench.gossip_out()
    bench.hear(3, Sync((alive(3), alive(4)), reply=False))
    told = {rumour.peer for _, packet in sent(bench.fire("gossip")) for rumour in packet.rumours}
    assert told == {info(3), info(4)}


def test_alone_it_is_its_only_member() -> None:
    assert [view.peer for view in Bench().machine.members] == [ME]


def test_the_same_random_source_gives_the_same_behaviour() -> None:
    def trace() -> list[object]:
        bench = Bench(5, seed=7)
        return [bench.fire("probe"), bench.fire("gossip"), bench.fire("indirect"), bench.fire("probe")]

    assert trace() == trace()


def test_members_are_sorted_and_leave_out_the_dead() -> None:
    bench = Bench(4)
    bench.hear(1, Gossip(), fact(3, Status.DEAD, origin=1), fact(2, Status.SUSPECT, origin=1))
    assert [view.peer for view in bench.machine.members] == [ME, info(1), info(2), info(4)]
    assert [view.peer for view in bench.machine.view()] == [info(n) for n in range(5)]


def test_a_ping_is_acked_with_its_sequence() -> None:
    [(to, packet)] = sent(Bench(1).hear(1, Ping(42, ME.id)))
    assert (to, packet.body, packet.sender) == (info(1).address, Ack(42), ME)


def test_a_ping_for_whoever_is_there_is_acked() -> None:
    assert sent(Bench().hear(1, Ping(42, "")), Ack)


def test_a_ping_meant_for_the_process_before_is_not_acked_but_the_asker_learns_who_is_here() -> None:
    effects = Bench(1).hear(1, Ping(42, info(77).id))
    assert not sent(effects, Ack)
    [(_, packet)] = sent(effects, Gossip)
    assert packet.rumours[0] == Rumour(ME, Status.ALIVE, 0, ME.id)


def test_a_packet_of_ones_own_changes_nothing() -> None:
    bench = Bench(1)
    assert events(bench.hear(ME, Sync((fact(9, Status.ALIVE),), reply=True))) == []
    assert bench.status(9) is None


def test_a_stranger_that_claims_our_address_is_ignored() -> None:
    bench = Bench(1)
    impostor = info(9, address=ME.address)
    assert bench.hear(impostor, Ping(1, ME.id), alive(8)) == []
    assert bench.status(9) is bench.status(8) is None


def test_an_older_process_at_our_address_is_contradicted() -> None:
    bench = Bench(1)
    old = Rumour(info(9, address=ME.address), Status.ALIVE, 3, info(9).id)
    assert events(bench.hear(1, Gossip(), old)) == []
    packets = sent(bench.fire("gossip"), Gossip)
    assert Rumour(old.peer, Status.DEAD, 3, ME.id) in packets[0][1].rumours


class TestRefutation:
    @pytest.mark.parametrize("status", [Status.SUSPECT, Status.DEAD])
    def test_a_doubt_is_answered_with_a_higher_incarnation(self, status: Status) -> None:
        bench = Bench(1)
        [(_, packet)] = sent(bench.hear(1, Ping(1, ME.id), fact(0, status, 4, origin=1)), Ack)
        assert packet.rumours[0] == Rumour(ME, Status.ALIVE, 5, ME.id)
        assert bench.machine.incarnation == 5
        assert bench.machine.health_score == 1, "who must refute was too slow"

    def test_an_old_doubt_raises_nothing_but_is_contradicted_again(self) -> None:
        bench = Bench(1)
        bench.hear(1, Gossip(), fact(0, Status.SUSPECT, 0, origin=1))
        bench.gossip_out()
        [(_, packet)] = sent(bench.hear(1, Ping(1, ME.id), fact(0, Status.SUSPECT, 0, origin=1)), Ack)
        assert packet.rumours == (Rumour(ME, Status.ALIVE, 1, ME.id),)
        assert bench.machine.incarnation == 1

    def test_a_wrong_address_for_us_is_corrected(self) -> None:
        bench = Bench(1)
        bench.hear(1, Gossip(), Rumour(PeerInfo(ME.id, "6.6.6.6:6"), Status.ALIVE, 0, ME.id))
        assert bench.machine.incarnation == 1

    @pytest.mark.parametrize(
        "lie", [fact(0, Status.LEFT, 0), fact(0, Status.DEAD, MAX_INCARNATION + 1), fact(0, Status.ALIVE, 0)]
    )
    def test_what_cannot_be_refuted_or_need_not_is_ignored(self, lie: Rumour) -> None:
        bench = Bench(1)
        assert events(bench.hear(1, Gossip(), lie)) == []
        assert bench.machine.incarnation == 0

    def test_who_is_believed_dead_and_speaks_is_told(self) -> None:
        bench = Bench(2)
        bench.hear(2, Gossip(), fact(1, Status.DEAD, 0, origin=2))
        bench.gossip_out()
        for body in (Gossip(), Ack(5), Nack(5), Ping(1, ME.id)):
            [(to, packet), *_] = sent(bench.hear(1, body))
            assert to == info(1).address
            assert packet.rumours[0] == fact(1, Status.DEAD, 0, origin=2)

    def test_the_dead_come_back_by_a_higher_incarnation_only(self) -> None:
        bench = Bench(2)
        bench.hear(2, Gossip(), fact(1, Status.DEAD, 3, origin=2))
        assert events(bench.hear(1, Gossip(), alive(1, 3))) == []
        assert events(bench.hear(1, Gossip(), alive(1, 4))) == [Joined(info(1))]


class TestLeaving:
    def test_it_tells_the_others_cancels_its_timers_and_is_inert(self) -> None:
        bench = Bench(3)
        effects = bench.machine.leave(1.0)
        goodbyes = sent(effects, Gossip)
        assert sorted(to for to, _ in goodbyes) == [info(n).address for n in (1, 2, 3)]
        assert all(packet.rumours[0] == fact(0, Status.LEFT) for _, packet in goodbyes)
        assert {e.key for e in effects if isinstance(e, CancelTimer)} == set(bench.armed)
        assert not [e for e in effects if isinstance(e, Emit)]
        assert bench.hear(1, Ping(1, ME.id), fact(0, Status.DEAD, 9, origin=1)) == []
        assert [bench.machine.timer(9.0, key) for key in bench.armed] == [[]] * len(bench.armed)
        assert bench.accuse(1) == []
        assert bench.machine.send_failed(9.0, info(1).address, Packet(ME, Ping(1, info(1).id))) == []
        assert bench.machine.leave(9.0) == []
        with pytest.raises(RuntimeError):
            bench.machine.start(9.0)

    def test_a_departure_is_final(self) -> None:
        bench = Bench(2)
        assert events(bench.hear(2, Gossip(), fact(1, Status.LEFT))) == [Left(info(1))]
        assert events(bench.hear(2, Gossip(), alive(1, 9), fact(1, Status.DEAD, 9, origin=2))) == []
        assert bench.hear(1, Ping(1, ME.id)) == []
        assert bench.status(1) is Status.LEFT

    def test_nobody_can_say_goodbye_for_another(self) -> None:
        bench = Bench(2)
        assert events(bench.hear(2, Gossip(), fact(1, Status.LEFT, origin=2))) == []
        assert bench.status(1) is Status.ALIVE


class TestFullExchange:
    def test_it_is_answered_with_everything_and_the_same_sequence(self) -> None:
        bench = Bench(2)
        bench.hear(1, Gossip(), fact(2, Status.LEFT))
        [(to, packet)] = sent(bench.hear(3, Sync((alive(3, 2), alive(4)), reply=True, sequence=8)), Sync)
        assert to == info(3).address
        assert packet.body == Sync(
            (alive(0), alive(1), fact(2, Status.LEFT), alive(3, 2), alive(4)), reply=False, sequence=8
        )

    def test_an_answer_is_not_answered(self) -> None:
        assert not sent(Bench(1).hear(1, Sync((), reply=False)))

    def test_a_remote_death_counts_as_a_suspicion(self) -> None:
        bench = Bench(2)
        bench.hear(1, Sync((fact(2, Status.DEAD, origin=1),), reply=False))
        assert bench.status(2) is Status.SUSPECT

    def test_the_unknown_dead_are_of_no_interest(self) -> None:
        bench = Bench(1)
        bench.hear(1, Sync((fact(9, Status.DEAD, origin=1),), reply=False))
        assert bench.status(9) is None


class TestOneAddressTwoProcesses:
    def test_a_packet_from_the_new_one_ends_the_old_one(self) -> None:
        bench = Bench(1)
        effects = bench.hear(info(9, address=info(1).address))
        [joined, died] = events(effects)
        assert joined == Joined(info(9, address=info(1).address))
        assert died.peer == info(1)
        assert died.reason == f"restarted as {info(9).id[:8]}"

    def test_hearsay_of_a_new_one_is_checked_at_the_address(self) -> None:
        bench = Bench(2)
        new = Rumour(info(9, address=info(1).address), Status.ALIVE, 0, info(9).id)
        effects = bench.hear(2, Gossip(), new)
        [(to, packet)] = sent(effects, Ping)
        assert (to, packet.body) == (info(1).address, Ping(0, info(9).id))
        assert bench.status(1) is Status.ALIVE
        assert bench.status(9) is Status.ALIVE
        bench.hear(new.peer, Ack(0))
        assert bench.status(1) is Status.DEAD

    def test_made_up_peers_at_an_address_do_not_turn_us_against_it(self) -> None:
        bench = Bench(2)
        flood = [Rumour(info(n, address="9.9.9.9:9"), Status.ALIVE, 0, info(n).id) for n in range(100, 400)]
        assert len(sent(bench.hear(2, Gossip(), *flood))) <= 1


class TestBounds:
    def test_made_up_peers_cannot_fill_the_memory(self) -> None:
        bench = Bench(1, replace(SwimConfig.lan(), max_members=50))
        bench.hear(1, Sync(tuple(alive(n) for n in range(2, 500)), reply=False))
        assert len(bench.machine.view()) == 50
        [(_, packet)] = sent(bench.hear(1, Sync((), reply=True)), Sync)
        assert isinstance(packet.body, Sync)
        assert len(packet.body.members) == 50

    def test_the_living_displace_the_dead_when_the_table_is_full(self) -> None:
        bench = Bench(1, replace(SwimConfig.lan(), max_members=4))
        bench.hear(1, Gossip(), fact(2, Status.DEAD, origin=1), fact(3, Status.DEAD, origin=1))
        assert events(bench.hear(4)) == [Joined(info(4))]
        assert bench.status(2) is None, "the one longest dead went"
        bench.hear(1, Gossip(), fact(5, Status.DEAD, origin=1))
        assert bench.status(3) is Status.DEAD, "the dead displace nobody"

    def test_every_packet_is_bounded(self) -> None:
        config = replace(SwimConfig.lan(), max_rumours=5)
        bench = Bench(1, config)
        bench.hear(1, Gossip(), *(alive(n) for n in range(2, 90)), fact(1, Status.SUSPECT, origin=2))
        for effects in (bench.hear(1, Ping(1, ME.id)), bench.fire("gossip"), bench.fire("probe")):
            packets = sent(effects)
            assert packets
            assert all(len(packet.rumours) == 5 for _, packet in packets)

    @pytest.mark.parametrize(
        "nonsense",
        [
            Rumour(PeerInfo(PeerId("short"), "1.1.1.1:1"), Status.ALIVE, 0),
            Rumour(PeerInfo(info(9).id, "no port"), Status.ALIVE, 0),
            Rumour(PeerInfo(info(9).id, "1.1.1.1:0"), Status.ALIVE, 0),
            Rumour(PeerInfo(info(9).id, "h" * 400 + ":1"), Status.ALIVE, 0),
            Rumour(info(9), Status.ALIVE, -1),
            Rumour(info(9), Status.ALIVE, MAX_INCARNATION + 1),
            Rumour(info(9), Status.ALIVE, 0, "not an id"),
            Rumour(PeerInfo(info(1).id, "8.8.8.8:8"), Status.SUSPECT, 0),
        ],
        ids=["id", "address", "port", "length", "negative", "huge", "origin", "moved"],
    )
    def test_malformed_facts_are_dropped(self, nonsense: Rumour) -> None:
        bench = Bench(1)
        before = bench.machine.view()
        assert events(bench.hear(1, Gossip(), nonsense)) == []
        assert bench.machine.view() == before

    def test_a_malformed_sender_is_ignored(self) -> None:
        assert Bench().hear(PeerInfo(PeerId("x"), "y"), Ping(1, ME.id)) == []


def rumours() -> st.SearchStrategy[Rumour]:
    peers = st.one_of(
        st.builds(info, st.integers(0, 6)),
        st.builds(lambda n, m: info(n, address=info(m).address), st.integers(0, 6), st.integers(0, 6)),
        st.builds(PeerInfo, st.text(max_size=5).map(PeerId), st.text(max_size=9)),
    )
    origins = st.one_of(st.just(""), st.integers(0, 6).map(lambda n: str(info(n).id)), st.text(max_size=4))
    return st.builds(Rumour, peers, st.sampled_from(Status), st.integers(-1, 5) | st.integers(), origins)


def packets() -> st.SearchStrategy[Packet]:
    bodies = st.one_of(
        st.builds(Ping, st.integers(0, 9), st.sampled_from(["", str(ME.id), str(info(1).id)])),
        st.builds(Ack, st.integers(0, 2**33)),
        st.builds(Nack, st.integers(0, 2**33)),
        st.builds(PingRequest, st.integers(0, 9), rumours().map(lambda r: r.peer)),
        st.just(Gossip()),
        st.builds(Sync, st.lists(rumours(), max_size=6).map(tuple), st.booleans(), st.integers(0, 9)),
    )
    return st.builds(Packet, rumours().map(lambda r: r.peer), bodies, st.lists(rumours(), max_size=6).map(tuple))


@settings(max_examples=200, deadline=None)
@given(inputs=st.lists(st.one_of(packets(), st.integers(0, 50)), max_size=40), others=st.integers(0, 4))
def test_no_packet_whatever_it_says_breaks_the_machine(inputs: list[Packet | int], others: int) -> None:
    bench = Bench(others, replace(SwimConfig.lan(), max_members=12, max_rumours=4))
    incarnation = 0
    for entry in inputs:
        if isinstance(entry, Packet):
            effects = bench.hear(entry.sender, entry.body, *entry.rumours)
        else:
            effects = bench.fire(sorted(bench.armed, key=lambda k: (bench.armed[k], str(k)))[entry % len(bench.armed)])
        assert bench.machine.incarnation >= incarnation
        incarnation = bench.machine.incarnation
        assert len(bench.machine.view()) <= 12
        for effect in effects:
            if isinstance(effect, Send):
                assert effect.message.sender == ME
                assert effect.to != ME.address
                assert len(effect.message.rumours) <= 4
    assert ME in [view.peer for view in bench.machine.members]
    bench.machine.leave(bench.now)
    assert bench.hear(1, Ping(1, ME.id)) == []


def test_timers_that_were_never_set_are_ignored() -> None:
    bench = Bench(1)
    for key in ("nonsense", ("seed", "1.1.1.1:1"), ("relay", 5), ("suspicion", info(1).id), 7, None):
        assert bench.machine.timer(0.1, key) == []


class TestStandstill:
    def test_a_stopped_process_does_not_blame_the_others(self) -> None:
        bench = Bench(3)
        bench.accuse(1)
        deadline = bench.armed[("suspicion", info(1).id)]
        bench.now = deadline + 100
        effects = bench.fire(("suspicion", info(1).id))
        assert bench.status(1) is Status.SUSPECT
        assert timers(effects)[("suspicion", info(1).id)] > deadline + 100 - bench.armed["probe"]
        assert bench.machine.health_score == 1

    def test_its_probe_under_way_is_void(self) -> None:
        bench = Bench(3)
        bench.fire("probe")
        bench.now += 100
        bench.fire("probe")
        assert all(view.status is Status.ALIVE for view in bench.machine.members)
