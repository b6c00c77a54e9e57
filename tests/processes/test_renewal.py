"""Certificates that expire under real peers: they are renewed while rounds go on, and nobody notices."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from process_swarm import Nursery, ProcessSwarm

from lepton_p2p.credentials.certificates import Holder, certify_node
from lepton_p2p.credentials.folder import KeysFolder

LIFE = 15.0
"""Seconds that the members' certificates are valid for: time enough to start on a busy machine, in two thirds of it."""


async def test_members_whose_certificates_expire_are_renewed_and_no_round_is_retried(
    nursery: Nursery, tmp_path: Path
) -> None:
    issuer = KeysFolder(tmp_path / "issuer")
    issuer.init("lepton", "issuer")
    async with ProcessSwarm(nursery) as swarm:
        await swarm.grow(1, keys=str(issuer.path))
        folders = [KeysFolder(tmp_path / f"member-{number}") for number in range(2)]
        began = time.monotonic()
        for folder in folders:
            key = folder.node_key()
            chain = certify_node(issuer.issuer(), key.public_key(), "member", may_issue=False, days=LIFE / 86_400)
            folder.store(Holder(key, chain, issuer.authority()))
            await swarm.grow(len(swarm.workers) + 1, keys=str(folder.path))
        first = await swarm.round()
        while time.monotonic() < began + LIFE + 3:  # until well after the first certificates have expired
            for reply in await swarm.round():
                assert reply["attempts"] == 1
                assert reply["epoch"] == first[0]["epoch"], "nobody was lost for a moment"
        for worker, folder in zip(swarm.workers[1:], folders, strict=True):
            assert "this machine's certificate was renewed" in nursery.log(worker)
            left = (folder.valid_node()[1].expires - issuer.valid_node()[1].expires).total_seconds()
            assert abs(left) < 60, "as long as the issuer's"
        # Links are there, but calls are new: a newcomer meets everybody under their new certificates.
        async with asyncio.timeout(LIFE):
            await swarm.grow(4, keys=str(issuer.path))
        await swarm.round()
