"""Telling running peers of a revocation."""

from __future__ import annotations

from collections.abc import Sequence

from lepton_p2p.credentials.certificates import Holder, make_process
from lepton_p2p.credentials.revocations import Revocations
from lepton_p2p.errors import SwarmUnreachable
from lepton_p2p.transport.channels import Channels
from lepton_p2p.transport.security import Security


async def tell(addresses: Sequence[str], node: Holder, known: Revocations) -> None:
    """Give what is ``known`` to the peers at ``addresses``, in the name of ``node``; raises if one is not there."""
    async with Channels(swarm=node.swarm, security=Security(make_process(node))) as channels:
        for address in addresses:
            try:
                await channels.exchange_revocations(address, known.encoded())
            except SwarmUnreachable as error:
                raise await channels.diagnose(address) or error from None
