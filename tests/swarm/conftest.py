"""Containers for the tests: the image is built once, each test gets a swarm of its own and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator

import pytest
from composed_swarm import PACED, ComposedSwarm, command


def _unique() -> str:
    return os.environ.get("SWARM_TESTS_PREFIX", "lepton-test-") + uuid.uuid4().hex[:8]


@pytest.fixture(scope="session")
def engine() -> None:
    """Docker and docker-compose; without them the tests are skipped, or fail if they must not be (make test-swarm)."""
    missing = [tool for tool in ("docker", "docker-compose") if shutil.which(tool) is None]
    if missing:
        reason = f"{' and '.join(missing)} not installed"
    elif subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        reason = "no Docker daemon answers"
    else:
        return
    if os.environ.get("SWARM_TESTS_REQUIRED"):
        pytest.fail(f"{reason}, and SWARM_TESTS_REQUIRED says that these tests must run")
    pytest.skip(f"{reason}; `make test-swarm` starts what it needs")


@pytest.fixture(scope="session")
def image(engine: None) -> Iterator[str]:
    """The image of this checkout, built as `docker-compose up` builds it."""
    name = _unique()
    command("docker-compose", "build", "seed", environment={"SWARM_IMAGE": name}, timeout=1500)
    yield name
    command("docker", "rmi", name)


@pytest.fixture
def swarm(image: str) -> Iterator[ComposedSwarm]:
    """No container yet; what the test starts is removed, and its last words are printed (shown if it failed)."""
    yield from _composed(ComposedSwarm(_unique(), image))


@pytest.fixture
def paced(image: str) -> Iterator[ComposedSwarm]:
    """The same with a training that lasts until the test hurries it."""
    yield from _composed(ComposedSwarm(_unique(), image, PACED))


@pytest.fixture
def secured(image: str) -> Iterator[ComposedSwarm]:
    """The same with docker-compose.secure.yml; it has no credentials yet."""
    yield from _composed(ComposedSwarm(_unique(), image, "docker-compose.secure.yml"))


def _composed(swarm: ComposedSwarm) -> Iterator[ComposedSwarm]:
    try:
        yield swarm
    finally:
        print(swarm.logs())
        swarm.down()
