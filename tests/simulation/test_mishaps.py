"""What goes wrong, and to whom."""

from __future__ import annotations

import pytest

from lepton_p2p.simulation.campaign import run
from lepton_p2p.simulation.mishaps import MISHAPS
from lepton_p2p.simulation.plan import Plan
from lepton_p2p.simulation.swarm import VirtualSwarm

PLAN = Plan(11, 3, 8, frozenset(MISHAPS))


@pytest.mark.parametrize("kind", [kind for kind in MISHAPS if kind != "join"])
def test_nothing_happens_where_nobody_is(kind: str) -> None:
    swarm = VirtualSwarm(PLAN)
    assert not swarm.hosts()
    assert not MISHAPS[kind](swarm)


def test_an_error_of_the_simulator_names_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(swarm: object) -> bool:
        raise ValueError("broken")

    monkeypatch.setattr("lepton_p2p.simulation.swarm.MISHAPS", dict.fromkeys(MISHAPS, broken))
    with pytest.raises(ValueError, match="broken") as caught:
        run(PLAN)
    assert caught.value.__notes__ == ["in the story of seed 11"]
