"""All but one are killed and come back with older checkpoints: what the one that lives on has done is not lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, permutations

import pytest
from model import VirtualSwarm

from lepton_p2p.identity import PeerId
from lepton_p2p.rounds.config import AgreementConfig

SURVIVOR = 0
BEHIND = 10 * 4
"""Contributions that are not in the newest checkpoint: so many steps of four."""
ORDERS = list(permutations(combinations(range(4), 2)))
"""In which order any two of the survivor and the three others find each other."""


def come_back(joins: Sequence[int]) -> tuple[VirtualSwarm, list[PeerId]]:
    """The survivor of four, which goes on alone, and three that have come back and met nobody yet, the last with the
    newest checkpoint; ``joins``: whom each was told to join.
    """
    swarm = VirtualSwarm(11)
    swarm.slow_rounds = 0.3
    survivor, *victims = [swarm.add(found=number == 0) for number in range(4)]
    machine = swarm.hosts[survivor].machine
    swarm.run_until(lambda: swarm.settled() and machine.progress.work > BEHIND + 10)
    oldest = machine.progress.work - BEHIND - len(joins)
    for victim in victims:
        swarm.crash(victim, noticed_after=0.1)
    swarm.run_until(swarm.settled)
    peers = [survivor]
    for number, join in enumerate(joins, 1):
        peers.append(swarm.add(found=False, held=oldest + number, join=[peers[join]], introduced=False))
    return swarm, peers


def reunions(joins: Sequence[int], every: int = 1) -> Iterator[tuple[VirtualSwarm, list[PeerId]]]:
    """They find each other in all orders; what the survivor had done is where all go on from."""
    for order in ORDERS[::every]:
        swarm, peers = come_back(joins)
        survivor = swarm.hosts[peers[SURVIVOR]]
        before = dict(survivor.history)
        for one, two in order:
            swarm.meet(peers[one], peers[two])
            swarm.run(2 * AgreementConfig.local().seek_interval)
        swarm.run_until(swarm.settled)
        swarm.run(1.0)
        assert survivor.dropped == survivor.machine.progress.origin == 0, order
        assert before.items() <= survivor.history.items()
        assert sorted(survivor.history) == list(range(1, survivor.machine.progress.completed + 1))
        swarm.check_histories()
        swarm.check_contributions()
        yield swarm, peers


def test_nobody_founds_beside_the_survivor_that_all_were_told_to_join() -> None:
    for swarm, peers in reunions([SURVIVOR, SURVIVOR, SURVIVOR]):
        assert not any(swarm.hosts[peer].dropped for peer in peers), "somebody founded in vain"


@pytest.mark.parametrize("joins", [(SURVIVOR, 1, 1), (SURVIVOR, 1, 2)])
def test_some_that_do_not_know_the_survivor_may_found_but_it_prevails(joins: Sequence[int]) -> None:
    founded = sum(any(swarm.hosts[peer].dropped for peer in peers) for swarm, peers in reunions(joins, 7))
    assert founded, "or this shows nothing"
