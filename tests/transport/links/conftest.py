"""Hubs for the tests of this folder, closed when a test is over."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from link_sides import Side

from lepton_p2p.identity import PeerId


@pytest.fixture
async def sides() -> AsyncIterator[Callable[..., Any]]:
    started: list[Side] = []

    async def start(me: PeerId | None, **options: Any) -> Side:
        side = Side(me, **options)
        await side.hub.start()
        started.append(side)
        return side

    yield start
    for side in started:
        await side.hub.close()
