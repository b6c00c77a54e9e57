"""What a swarm of SWIM peers promises, on a simulated network: found, lost, mistaken, split and healed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from swim_network import Network, info

from lepton_p2p.membership import (
    DeclaredDead,
    Died,
    Joined,
    Left,
    SeedAnswered,
    SeedSilent,
    Status,
    Suspected,
    SwimConfig,
    Trusted,
)


@pytest.fixture(scope="module", autouse=True, params=[False, True], ids=["open", "signed"])
def signed(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every promise holds where claims are signed as well."""
    Network.signed = request.param
    yield
    Network.signed = False


SEEDS = pytest.mark.parametrize("seed", range(5))


@SEEDS
@pytest.mark.parametrize(
    "config", [SwimConfig.local(), SwimConfig.lan(), SwimConfig.wan()], ids=["local", "lan", "wan"]
)
def test_peers_that_join_by_one_seed_all_see_each_other(seed: int, config: SwimConfig) -> None:
    network = Network(seed, config)
    nodes = network.swarm(12)
    network.run_until(network.agreed, within=15 * config.gossip_interval)
    network.run(2 * config.sync_interval)
    for node in nodes:
        others = sorted(other.me for other in nodes if other is not node)
        assert sorted(event.peer for event in node.saw(Joined)) == others, "each is announced once"


def test_a_hundred_members_converge() -> None:
    network = Network(1)
    network.swarm(100)
    network.run_until(network.agreed, within=10)
    network.run(10)
    assert network.agreed()


def test_an_idle_swarm_falls_silent_but_for_probes() -> None:
    network = Network(2)
    network.swarm(20)
    network.run(60)
    before = network.packets
    network.run(30)
    per_member_and_second = (network.packets - before) / 20 / 30
    assert per_member_and_second < 2.5, "a ping and an ack per interval, rarely a full exchange"


@SEEDS
@pytest.mark.parametrize("refuse", [True, False], ids=["refusing", "dropping"])
def test_a_crash_is_noticed_by_all(seed: int, refuse: bool) -> None:
    network = Network(seed, refuse=refuse)
    nodes = network.swarm(10)
    network.run(5)
    victim, survivors = nodes[0], nodes[1:]
    network.kill(victim)
    network.run_until(lambda: network.agreed(survivors), within=90)
    network.run(5)
    for node in survivors:
        assert [event.peer for event in node.saw(Died)] == [victim.me]
        assert not node.saw(Left)


@SEEDS
def test_nobody_is_declared_dead_while_no_packet_is_lost(seed: int) -> None:
    network = Network(seed, delay=(0.0, 0.2))
    nodes = network.swarm(10)
    network.run(300)
    for node in nodes:
        assert not node.saw(Died)
        assert not node.saw(Suspected)
        assert node.machine.incarnation == 0


@SEEDS
def test_loss_causes_suspicions_but_they_are_refuted(seed: int) -> None:
    network = Network(seed, loss=0.15)
    nodes = network.swarm(10)
    network.run(200)
    for node in nodes:
        assert not node.saw(Died)
    network.loss = 0.0
    network.run_until(network.agreed, within=60)


@SEEDS
def test_a_paused_peer_is_declared_dead_and_returns_with_a_higher_incarnation(seed: int) -> None:
    network = Network(seed)
    nodes = network.swarm(6)
    network.run(5)
    victim, others = nodes[2], [node for node in nodes if node is not nodes[2]]
    network.pause(victim)
    network.run_until(lambda: network.agreed(others), within=90)
    network.run(5)
    network.resume(victim)
    network.run_until(network.agreed, within=60)
    assert victim.machine.incarnation > 0
    assert victim.saw(DeclaredDead)
    assert not victim.saw(Died), "it does not blame the others for the time that it slept"
    for node in others:
        assert [event.peer for event in node.saw(Died)] == [victim.me]
        assert [event.peer for event in node.saw(Joined)].count(victim.me) == 2


@SEEDS
def test_a_short_pause_is_forgiven(seed: int) -> None:
    network = Network(seed)
    nodes = network.swarm(6)
    network.run(5)
    network.pause(nodes[3])
    network.run(3)
    network.resume(nodes[3])
    network.run_until(network.agreed, within=30)
    for node in nodes:
        assert not node.saw(Died)
        assert len(node.saw(Suspected)) == len(node.saw(Trusted))


@SEEDS
def test_leaving_is_not_dying(seed: int) -> None:
    network = Network(seed)
    nodes = network.swarm(8)
    network.run(5)
    network.leave(nodes[0])
    network.run_until(lambda: network.agreed(nodes[1:]), within=3)
    network.run(60)
    for node in nodes[1:]:
        assert [event.peer for event in node.saw(Left)] == [nodes[0].me]
        assert not node.saw(Died)
        gone = next(view for view in node.machine.view() if view.peer == nodes[0].me)
        assert gone.status is Status.LEFT


def test_goodbye_reaches_a_swarm_that_is_larger_than_the_leaver_can_tell() -> None:
    network = Network(3)
    nodes = network.swarm(90)
    network.run_until(network.agreed, within=10)
    network.leave(nodes[5])
    rest = [node for node in nodes if node is not nodes[5]]
    network.run_until(lambda: network.agreed(rest), within=5)


@SEEDS
def test_a_restart_at_the_same_address_replaces_the_old_process_at_once(seed: int) -> None:
    network = Network(seed)
    nodes = network.swarm(6)
    network.run(5)
    old = nodes[3]
    network.kill(old)
    new = network.start(info(99, address=old.me.address), [nodes[0].me.address])
    network.run_until(network.agreed, within=3)
    for node in network.nodes.values():
        if node is not new:
            assert [event.peer for event in node.saw(Died)] == [old.me]
    assert any("restarted as 00000000" in event.reason for _, event in nodes[0].events if isinstance(event, Died))


@SEEDS
def test_halves_with_seeds_of_their_own_merge_when_a_shared_seed_starts(seed: int) -> None:
    network = Network(seed)
    shared = info(50)
    left = [network.start(info(i), [info(1).address, shared.address]) for i in range(1, 5)]
    right = [network.start(info(i), [info(11).address, shared.address]) for i in range(11, 15)]
    network.run(100)
    assert network.agreed(left)
    assert network.agreed(right)
    network.start(shared)
    network.run_until(network.agreed, within=2 * network.config.seed_retry_max)


@SEEDS
def test_a_partition_heals_without_seeds(seed: int) -> None:
    network = Network(seed)
    first = network.start(info(1))
    nodes = [first, *(network.start(info(i), known=[first.me]) for i in range(2, 9))]
    network.run(5)
    network.partition(nodes[:3], nodes[3:])
    network.run_until(lambda: network.agreed(nodes[:3]) and network.agreed(nodes[3:]), within=120)
    network.run(60)
    network.partition()
    network.run_until(network.agreed, within=4 * network.config.reconnect_interval)


def test_an_accused_peer_that_lives_refutes_within_a_round_trip() -> None:
    network = Network(4)
    nodes = network.swarm(5)
    network.run(5)
    network.accuse(nodes[1], nodes[2].me, "link reset")
    assert nodes[1].saw(Suspected) == [Suspected(nodes[2].me, nodes[1].me.id, "link reset")]
    network.run_until(lambda: nodes[1].saw(Trusted) == [Trusted(nodes[2].me)], within=0.1)
    network.run_until(network.agreed, within=3)


def test_a_seed_is_tried_for_ever_and_its_silence_is_said_once() -> None:
    network = Network(5)
    seed = info(2)
    alone = network.start(info(1), [seed.address])
    network.run(100_000)
    assert [event for _, event in alone.events] == [SeedSilent(seed.address)]
    network.start(seed)
    network.run_until(network.agreed, within=2 * network.config.seed_retry_max)
    assert alone.saw(SeedAnswered) == [SeedAnswered(seed.address)]


def test_a_silent_seed_is_told_of_even_if_its_address_swallows_packets() -> None:
    network = Network(6, refuse=False)
    alone = network.start(info(1), [info(2).address])
    network.run(1000)
    assert alone.saw(SeedSilent) == [SeedSilent(info(2).address)]


def test_a_seed_known_by_a_host_name_is_recognised_and_oneself_among_the_seeds_is_skipped() -> None:
    network = Network(7)
    network.names = {"seed:7700": info(1).address}
    nodes = [network.start(info(i), ["seed:7700"]) for i in range(1, 5)]
    network.run_until(network.agreed, within=5)
    network.run(200)
    assert network.agreed()
    assert not nodes[0].saw(SeedSilent)
    assert not nodes[0].saw(SeedAnswered)
    for node in nodes[1:]:
        assert node.saw(SeedAnswered) == [SeedAnswered("seed:7700")]
        assert not node.saw(SeedSilent)


def test_known_members_from_disk_find_the_swarm_and_the_gone_ones_are_let_go() -> None:
    network = Network(8)
    nodes = network.swarm(3)
    network.run(5)
    back = network.start(info(40), known=[info(90), nodes[1].me, info(91)])
    network.run_until(network.agreed, within=5)
    network.run(60)
    assert not back.saw(SeedSilent)
    assert not [key for key in back.timers if key in (("seed", info(90).address), ("seed", info(91).address))]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    loss=st.floats(0, 0.3),
    slowest=st.floats(0.001, 0.4),
    script=st.lists(
        st.tuples(st.sampled_from(["kill", "join", "leave", "pause", "resume", "split", "heal"]), st.integers(0, 30)),
        max_size=12,
    ),
)
def test_whatever_happens_the_survivors_agree_in_the_end(
    seed: int, loss: float, slowest: float, script: list[tuple[str, int]]
) -> None:
    """Two phases: safety under every fault (checked by the network on each packet), then heal and demand agreement.

    One seed is never killed: joiners that know nobody alive could not find the others.
    """
    network = Network(seed, loss=loss, delay=(0.0, slowest))
    nodes = network.swarm(6)
    core = nodes[0]
    network.run(3)
    for number, (action, pick) in enumerate(script):
        running = list(network.nodes.values())
        chosen = running[pick % len(running)]
        if action == "join":
            network.start(info(100 + number), [core.me.address])
        elif action == "kill" and chosen is not core:
            network.kill(chosen)
        elif action == "leave" and chosen is not core and not chosen.paused:
            network.leave(chosen)
        elif action == "pause":
            network.pause(chosen)
        elif action == "resume":
            network.resume(chosen)
        elif action == "split":
            network.partition(running[: pick % len(running)], running[pick % len(running) :])
        elif action == "heal":
            network.partition()
        network.run(pick)
    network.partition()
    network.loss = 0.0
    network.delay = (0.001, 0.02)
    for node in list(network.nodes.values()):
        network.resume(node)
    network.run_until(network.agreed, within=2000)
