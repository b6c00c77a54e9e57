"""A member that lost its right to be one: dead at once and for good, whatever anybody says."""

from __future__ import annotations

import pytest
from swim_bench import Bench, alive, events, fact, sent
from swim_network import Network, info

from lepton_p2p.membership import Died, Gossip, Joined, Status, Sync


def test_it_is_dead_at_once_and_the_others_are_told() -> None:
    bench = Bench(others=3)
    effects = bench._note(bench.machine.expel(bench.now, info(1).id, "its node was revoked"))
    assert events(effects) == [Died(info(1), "its node was revoked")]
    assert bench.status(1) is Status.DEAD
    told = [packet for _, packet in sent(bench.fire("gossip"), Gossip)]
    assert told
    assert all(fact(1, Status.DEAD, origin=0) in packet.rumours for packet in told)


def test_nothing_that_is_heard_brings_it_back() -> None:
    bench = Bench(others=3)
    bench.machine.expel(bench.now, info(1).id, "revoked")
    for effects in (
        bench.hear(1),
        bench.hear(2, None, alive(1, 7)),
        bench.hear(3, Sync((alive(3), alive(1, 9), fact(1, Status.SUSPECT, 10)), reply=False)),
    ):
        assert not any(isinstance(event, Joined) for event in events(effects))
        assert bench.status(1) is Status.DEAD


def test_it_is_not_looked_for_again() -> None:
    bench = Bench(others=2)
    bench.machine.expel(bench.now, info(1).id, "revoked")
    bench.gossip_out()
    for _ in range(20):
        assert info(1).address not in [to for to, _ in sent(bench.fire("reconnect"))]


def test_one_that_nobody_has_heard_of_is_left_alone_until_it_shows_up() -> None:
    bench = Bench(others=1)
    assert bench.machine.expel(bench.now, info(9).id, "revoked") == []
    assert events(bench.hear(9)) == [Joined(info(9))]
    assert events(bench.machine.expel(bench.now, info(9).id, "revoked")) == [Died(info(9), "revoked")]


def test_saying_it_twice_changes_nothing_and_before_the_start_it_is_inert() -> None:
    bench = Bench(others=2)
    bench.machine.expel(bench.now, info(1).id, "revoked")
    assert bench.machine.expel(bench.now, info(1).id, "revoked") == []
    bench.machine.leave(bench.now)
    assert bench.machine.expel(bench.now, info(2).id, "revoked") == []


@pytest.mark.parametrize("seed", range(20))
def test_one_that_refutes_as_loudly_as_it_can_stays_out_when_all_have_expelled_it(seed: int) -> None:
    network = Network(seed)
    nodes = network.swarm(8)
    network.run(5.0)
    outcast = nodes[3]
    for node in nodes:
        if node is not outcast:
            network._perform(node, node.machine.expel(network.now, outcast.me.id, "revoked"))
    network.run(60.0)
    for node in nodes:
        if node is not outcast:
            members = {view.peer.id for view in node.machine.members}
            assert members == {other.me.id for other in nodes if other is not outcast}
