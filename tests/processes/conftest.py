"""Make the harness of this folder importable by its tests, and share one fork server between them."""

import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from process_swarm import Nursery, ProcessSwarm


@pytest.fixture(scope="session")
async def nursery(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Nursery]:
    """Starts peers as processes."""
    async with Nursery(tmp_path_factory.mktemp("peers")) as started:
        yield started


@pytest.fixture(scope="module", autouse=True)
def nobody_found_a_bug(nursery: Nursery) -> Iterator[None]:
    """Whatever is done to them, no peer logs an error: those are for what must not happen."""
    known = set(nursery.bugs())
    yield
    bugs = [line for line in nursery.bugs() if line not in known]
    assert not bugs, "\n".join(bugs)


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
