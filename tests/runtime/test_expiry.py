"""A certificate that expires under a running peer: it is warned, and then ends instead of going on alone."""

from __future__ import annotations

import asyncio

from structlog.testing import capture_logs
from swarm_keys import Family, node_of

from lepton_p2p.errors import CredentialsRefused
from lepton_p2p.runtime.node_credentials import NodeCredentials

FAMILY = Family()


async def test_it_is_warned_and_ends_when_it_has_expired() -> None:
    failed: asyncio.Queue[BaseException] = asyncio.Queue()
    credentials = NodeCredentials(node_of(FAMILY.issuer, days=4 / 86_400), None)
    with capture_logs() as logs:
        async with asyncio.timeout(20):
            await credentials.watch_expiry(failed.put_nowait)
    assert isinstance(error := failed.get_nowait(), CredentialsRefused)
    assert "has expired" in str(error)
    assert "keys renew" in logs[0]["event"]


async def test_one_that_is_valid_for_long_is_left_in_peace() -> None:
    failed: list[BaseException] = []
    credentials = NodeCredentials(node_of(FAMILY.issuer, days=300), None)
    with capture_logs() as logs:
        watching = asyncio.create_task(credentials.watch_expiry(failed.append))
        await asyncio.sleep(0)
        assert not watching.done()
        watching.cancel()
        await asyncio.wait((watching,))
    assert not logs
    assert not failed
