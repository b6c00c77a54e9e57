"""Make the harness of this folder importable by its tests, and share one fork server between them."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from peer_processes import Launcher, TrainingSwarm


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """On a busy machine the imports and a swarm may take more than a minute; every wait has a deadline of its own."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(180))


@pytest.fixture(scope="session")
async def launcher(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Launcher]:
    """Starts peers as processes; takes the time that imports take once."""
    async with Launcher(tmp_path_factory.mktemp("peers")) as started:
        yield started


@pytest.fixture
async def swarm(launcher: Launcher, tmp_path: Path) -> AsyncIterator[TrainingSwarm]:
    """An empty swarm; at the end all of its processes are gone, and none of them has logged an error."""
    async with TrainingSwarm(launcher, tmp_path) as made:
        yield made
    assert not launcher.running, "processes are left"
    assert not (bugs := made.bugs()), "\n".join(bugs)
