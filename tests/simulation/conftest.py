"""Small worlds for the parts of the simulator."""

from __future__ import annotations

import random

import pytest

from lepton_p2p.simulation.network import Network
from lepton_p2p.simulation.scheduler import Scheduler
from lepton_p2p.simulation.weather import Weather


@pytest.fixture
def scheduler() -> Scheduler:
    return Scheduler()


@pytest.fixture
def network(scheduler: Scheduler) -> Network:
    """Fair weather: 1 ms one way, nothing lost."""
    return Network(scheduler, random.Random(1), Weather(), timeout=2.0)
