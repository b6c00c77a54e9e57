"""Make the harness of this folder importable by its tests, and share one fork server between them."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from process_swarm import Nursery, ProcessSwarm


@pytest.fixture(scope="module")
async def nursery(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Nursery]:
    """Starts peers as processes; those that a test forgot are killed at the end of the module."""
    async with Nursery(tmp_path_factory.mktemp("peers")) as started:
        yield started
        bugs = started.bugs()
    assert not bugs, "\n".join(bugs)


@pytest.fixture
async def swarm(nursery: Nursery) -> AsyncIterator[ProcessSwarm]:
    """Four peers in one epoch, for one test."""
    async with ProcessSwarm(nursery) as made:
        await made.grow(4)
        yield made


@pytest.fixture(scope="module")
async def lasting_swarm(nursery: Nursery) -> AsyncIterator[ProcessSwarm]:
    """Four peers that stay from test to test, while tests kill some and start others; see ``refilled``."""
    async with ProcessSwarm(nursery) as made:
        yield made


@pytest.fixture
async def refilled(lasting_swarm: ProcessSwarm) -> ProcessSwarm:
    """The lasting swarm, with fresh peers in the places of those that the tests before killed: four in all."""
    await lasting_swarm.grow(4)
    return lasting_swarm
