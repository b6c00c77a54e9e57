"""Pinging for others."""

from __future__ import annotations

import pytest
from swim_bench import ME, Bench, sent
from swim_network import info

from lepton_p2p.membership import Ack, Nack, Packet, Ping, PingRequest, SwimConfig
from lepton_p2p.membership.relaying import MAX_RELAYED


@pytest.fixture
def bench() -> Bench:
    return Bench(3)


def ask(bench: Bench, sequence: int = 7) -> tuple[str, Packet, int]:
    """Peer 1 asks to ping peer 2: where the ping goes, the packet, the relay's sequence."""
    [(to, packet)] = sent(bench.hear(1, PingRequest(sequence, info(2))), Ping)
    assert isinstance(packet.body, Ping)
    assert packet.body.target == info(2).id
    return to, packet, packet.body.sequence


def test_the_ack_is_passed_on_under_the_askers_sequence(bench: Bench) -> None:
    to, _, sequence = ask(bench)
    assert to == info(2).address
    [(asker, packet)] = sent(bench.hear(2, Ack(sequence)))
    assert (asker, packet.body) == (info(1).address, Ack(7))
    assert sent(bench.hear(2, Ack(sequence))) == [], "once"


def test_an_ack_from_another_is_not_passed_on(bench: Bench) -> None:
    _, _, sequence = ask(bench)
    assert sent(bench.hear(3, Ack(sequence))) == []


def test_after_most_of_the_time_out_the_asker_hears_a_nack_and_a_late_ack_still_counts(bench: Bench) -> None:
    _, _, sequence = ask(bench)
    assert bench.armed[("relay", sequence)] == pytest.approx(0.8 * SwimConfig.lan().probe_timeout)
    [(asker, packet)] = sent(bench.fire(("relay", sequence)))
    assert (asker, packet.body) == (info(1).address, Nack(7))
    assert [packet.body for _, packet in sent(bench.hear(2, Ack(sequence)))] == [Ack(7)]


def test_in_the_end_it_is_forgotten(bench: Bench) -> None:
    _, _, sequence = ask(bench)
    bench.fire(("relay", sequence))
    bench.fire(("relay", sequence))
    assert sent(bench.hear(2, Ack(sequence))) == []


def test_a_ping_that_is_refused_is_nacked_at_once_and_once(bench: Bench) -> None:
    to, packet, sequence = ask(bench)
    assert [p.body for _, p in sent(bench.refused(to, packet))] == [Nack(7)]
    assert sent(bench.refused(to, packet)) == []
    assert sent(bench.fire(("relay", sequence))) == []


def test_asked_for_ourselves_we_answer(bench: Bench) -> None:
    assert [packet.body for _, packet in sent(bench.hear(1, PingRequest(7, ME)))] == [Ack(7)]


def test_asked_for_the_process_before_us_we_say_no(bench: Bench) -> None:
    asked = PingRequest(7, info(9, address=ME.address))
    assert [packet.body for _, packet in sent(bench.hear(1, asked))] == [Nack(7)]


def test_there_is_a_limit_to_what_we_do_for_others(bench: Bench) -> None:
    for sequence in range(MAX_RELAYED):
        ask(bench, sequence)
    assert [packet.body for _, packet in sent(bench.hear(1, PingRequest(7, info(2))))] == [Nack(7)]
