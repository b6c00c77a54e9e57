"""A lineage in which nobody holds what its rounds led to yields to any other, however small."""

from __future__ import annotations

import pytest
from model import VirtualSwarm

from lepton_p2p.rounds.messages import Standing


def test_nothing_to_lose_comes_before_size() -> None:
    large, small = Standing(size=9, work=0, number=7, tag=1), Standing(size=1, work=3, number=2, tag=2)
    assert large.yields_to(small)
    assert not small.yields_to(large)


def test_of_two_lineages_with_work_the_smaller_yields_as_ever() -> None:
    large, small = Standing(size=9, work=1, number=7, tag=1), Standing(size=1, work=300, number=2, tag=2)
    assert small.yields_to(large)
    assert not large.yields_to(small)


def test_a_crowd_that_lost_the_state_comes_to_the_one_that_kept_it() -> None:
    swarm = VirtualSwarm(5)
    holder = swarm.add(found=True)
    swarm.run(1.0)
    crowd = [swarm.add(found=index == 0) for index in range(4)]
    swarm.cut |= {(a, b) for one in crowd for a, b in ((one, holder), (holder, one))}
    swarm.run_until(lambda: all(len(epoch.ids) == 4 for peer in crowd if (epoch := swarm.hosts[peer].machine.epoch)))
    swarm.run(1.0)
    held = swarm.hosts[holder].history[1]
    for peer in crowd:
        swarm.hosts[peer].rounds_wanted = False
    swarm.run(1.0)
    for peer in crowd:
        machine = swarm.hosts[peer].machine
        assert machine.progress.work > 0
        swarm.feed(peer, lambda machine=machine: machine.holds(swarm.now, 0))  # type: ignore[misc]
    swarm.cut.clear()
    swarm.run_until(swarm.settled)
    assert swarm.hosts[holder].dropped == 0
    assert swarm.hosts[holder].history[1] == held
    assert all(swarm.hosts[peer].dropped >= 1 for peer in crowd)


def test_a_lineage_is_compared_by_the_work_that_its_members_agreed_their_state_begins_with() -> None:
    swarm = VirtualSwarm(7)
    machine = swarm.hosts[swarm.add(found=True, wants_rounds=False)].machine
    machine.progress.work = machine.progress.origin = 40  # from a checkpoint that nobody has any more
    machine.holds(swarm.now, 12)
    standing = machine.standing
    assert standing is not None
    assert (standing.work, standing.origin) == (12, 12)


@pytest.mark.parametrize("milliseconds", range(201, 240, 3))
def test_what_the_state_has_come_to_is_not_forgotten_if_it_is_told_while_an_epoch_is_agreed(milliseconds: int) -> None:
    """Training tells it from another thread, at any moment: when members have promised what they had until then, too.

    Else a checkpoint of this state would be ahead of the lineage, and whoever comes back with it would found another.
    """
    swarm = VirtualSwarm(7)
    members = [swarm.add(found=number == 0) for number in range(3)]
    swarm.run_until(swarm.settled)
    swarm.add(found=False)
    swarm.run(milliseconds / 1000)
    for member in members:
        machine = swarm.hosts[member].machine
        swarm.feed(member, lambda machine=machine: machine.worked(swarm.now, 5000))  # type: ignore[misc]
    swarm.run_until(swarm.settled)
    swarm.run(0.5)
    assert all(swarm.hosts[member].machine.progress.work > 5000 for member in members)
