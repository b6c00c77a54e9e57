"""How a peer finds out that another is dead, and how it avoids to be wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest
from swim_bench import ME, Bench, alive, events, fact, sent
from swim_network import info

from lepton_p2p.membership import (
    Ack,
    Gossip,
    Nack,
    Packet,
    Ping,
    PingRequest,
    Status,
    Suspected,
    SwimConfig,
)

REASON = "answers no probe, direct or through others"


def probe(bench: Bench) -> tuple[str, Packet, int, int]:
    """Begin an interval: the address probed, the packet, its sequence, the number of the peer."""
    [(to, packet)] = sent(bench.fire("probe"), Ping)
    assert isinstance(packet.body, Ping)
    return to, packet, packet.body.sequence, int(packet.body.target, 16)


def test_every_member_is_probed_once_per_round_in_random_order() -> None:
    rounds = []
    bench = Bench(8)
    for _ in range(3):
        targets = []
        for _ in range(8):
            _, _, sequence, target = probe(bench)
            bench.hear(target, Ack(sequence))
            targets.append(target)
        assert sorted(targets) == list(range(1, 9))
        rounds.append(targets)
    assert rounds[0] != rounds[1] or rounds[1] != rounds[2]


def test_an_answered_probe_accuses_nobody() -> None:
    bench = Bench(1)
    _, _, sequence, _ = probe(bench)
    bench.hear(1, Ack(sequence))
    assert bench.armed.pop("indirect")
    bench.fire("probe")
    assert bench.status(1) is Status.ALIVE


def test_without_a_direct_answer_others_are_asked_then_the_target_is_suspected() -> None:
    bench = Bench(6)
    _, _, sequence, target = probe(bench)
    requests = sent(bench.fire("indirect"), PingRequest)
    assert len({to for to, _ in requests}) == 3
    assert info(target).address not in [to for to, _ in requests]
    assert all(packet.body == PingRequest(sequence, info(target)) for _, packet in requests)
    effects = bench.fire("probe")
    assert events(effects) == [Suspected(info(target), ME.id, REASON)]


@pytest.mark.parametrize("trusted", [0, 2, 3, 40])
def test_only_those_that_nobody_suspects_are_asked_however_few_they_are(trusted: int) -> None:
    bench = Bench(60)
    _, _, _, target = probe(bench)
    trustworthy = {number for number in range(1, 61) if number != target}
    for number in list(trustworthy)[trusted:]:
        bench.accuse(number)
        trustworthy.discard(number)
    requests = sent(bench.fire("indirect"), PingRequest)
    asked = {to for to, _ in requests}
    assert asked <= {info(number).address for number in trustworthy}
    assert len(asked) == len(requests) == min(trusted, 3)


def test_an_ack_through_a_relay_clears_the_target() -> None:
    bench = Bench(4)
    _, _, sequence, target = probe(bench)
    relay = next(n for n in range(1, 5) if n != target)
    bench.fire("indirect")
    bench.hear(relay, Ack(sequence))
    bench.fire("probe")
    assert bench.status(target) is Status.ALIVE


@pytest.mark.parametrize("wrong", ["sequence", "sender"])
def test_an_ack_that_was_not_asked_for_clears_nobody(wrong: str) -> None:
    bench = Bench(2)
    _, _, sequence, target = probe(bench)
    bench.hear(target if wrong == "sequence" else 3 - target, Ack(sequence + (wrong == "sequence")))
    bench.fire("indirect")
    bench.fire("probe")
    assert bench.status(target) is Status.SUSPECT


def test_a_refused_ping_does_not_wait_for_its_time_out() -> None:
    bench = Bench(3)
    to, packet, _, _ = probe(bench)
    assert len(sent(bench.refused(to, packet), PingRequest)) == 2
    assert sent(bench.refused(to, packet), PingRequest) == [], "said twice, heard once"


def test_a_refusal_is_a_hint_and_no_verdict() -> None:
    bench = Bench(1)
    to, packet, sequence, _ = probe(bench)
    bench.refused(to, packet)
    bench.hear(1, Ack(sequence))
    bench.fire("probe")
    assert bench.status(1) is Status.ALIVE


def test_a_suspect_hears_of_it_with_every_ping_though_the_news_is_old() -> None:
    bench = Bench(2)
    bench.accuse(1)
    bench.gossip_out()
    told = {}
    for _ in range(2):
        _, packet, sequence, target = probe(bench)
        bench.hear(target, Ack(sequence))
        told[target] = packet.rumours
    assert told == {1: (fact(1, Status.SUSPECT, origin=0),), 2: ()}


class TestHealth:
    def test_missing_nacks_point_at_ourselves(self) -> None:
        bench = Bench(5)
        _, _, sequence, _ = probe(bench)
        [first, *_] = sent(bench.fire("indirect"), PingRequest)
        bench.hear(next(n for n in range(1, 6) if info(n).address == first[0]), Nack(sequence))
        bench.fire("probe")
        assert bench.machine.health_score == 2, "two of three relays were silent as well"

    def test_nacks_from_all_relays_acquit_us(self) -> None:
        bench = Bench(5)
        _, _, sequence, target = probe(bench)
        bench.fire("indirect")
        for number in range(1, 6):
            if number != target:
                bench.hear(number, Nack(sequence))
        bench.fire("probe")
        assert bench.status(target) is Status.SUSPECT
        assert bench.machine.health_score == 0

    def test_a_relay_that_refuses_is_not_waited_for(self) -> None:
        bench = Bench(2)
        probe(bench)
        [(to, packet)] = sent(bench.fire("indirect"), PingRequest)
        bench.refused(to, packet)
        bench.fire("probe")
        assert bench.machine.health_score == 0

    def test_bad_health_makes_patient_and_answers_heal(self) -> None:
        bench = Bench(1)
        bench.hear(1, Gossip(), fact(0, Status.SUSPECT, 0, origin=1))
        assert bench.machine.health_score == 1
        _, _, sequence, _ = probe(bench)
        assert bench.armed["probe"] == bench.now + 2 * SwimConfig.lan().probe_interval
        assert bench.armed["indirect"] == bench.now + 2 * SwimConfig.lan().probe_timeout
        bench.hear(1, Ack(sequence))
        assert bench.machine.health_score == 0


class TestSuspicion:
    def test_accusing_starts_at_once_and_asks_the_accused(self) -> None:
        bench = Bench(3)
        effects = bench.accuse(1, "link reset")
        assert events(effects) == [Suspected(info(1), ME.id, "link reset")]
        [(to, packet)] = sent(effects, Ping)
        assert to == info(1).address
        assert packet.rumours[0] == fact(1, Status.SUSPECT, origin=0)

    def test_accusing_oneself_strangers_and_the_dead_does_nothing(self) -> None:
        bench = Bench(2)
        bench.hear(2, Gossip(), fact(1, Status.DEAD, origin=2))
        assert [bench.accuse(number) for number in (0, 1, 9)] == [[], [], []]

    def test_independent_witnesses_shorten_the_wait_to_the_minimum(self) -> None:
        bench = Bench(9)
        bench.accuse(1)
        waits = [bench.armed[("suspicion", info(1).id)]]
        for witness in (2, 2, 3, 4):
            bench.hear(witness, Gossip(), fact(1, Status.SUSPECT, origin=witness))
            waits.append(bench.armed[("suspicion", info(1).id)])
        assert waits[0] == 24.0
        assert waits[0] > waits[1] == waits[2] > waits[3] == waits[4] == 4.0

    def test_it_ends_in_death_with_the_reason_and_the_victim_is_told(self) -> None:
        bench = Bench(1)
        bench.accuse(1, "link reset")
        while bench.armed["probe"] < bench.armed[("suspicion", info(1).id)]:
            bench.fire("probe")
        effects = bench.fire(("suspicion", info(1).id))
        [died] = events(effects)
        assert died.peer == info(1)
        assert died.reason.startswith(f"link reset; suspected by {ME.id[:8]} and silent for ")
        [(to, packet)] = sent(effects, Gossip)
        assert (to, packet.rumours[0]) == (info(1).address, fact(1, Status.DEAD, origin=0))

    def test_a_refutation_ends_it(self) -> None:
        bench = Bench(2)
        bench.accuse(1)
        bench.hear(2, Gossip(), alive(1, 1))
        assert bench.machine.timer(100.0, ("suspicion", info(1).id)) == []
        assert bench.status(1) is Status.ALIVE

    def test_an_accusation_of_an_older_incarnation_is_void(self) -> None:
        bench = Bench(2)
        bench.hear(2, Gossip(), alive(1, 1), fact(1, Status.SUSPECT, 0, origin=2))
        assert bench.status(1) is Status.ALIVE


def test_indirect_probes_can_be_switched_off() -> None:
    bench = Bench(4, replace(SwimConfig.lan(), indirect_probes=0))
    _, _, _, target = probe(bench)
    assert sent(bench.fire("indirect")) == []
    bench.fire("probe")
    assert bench.status(target) is Status.SUSPECT
