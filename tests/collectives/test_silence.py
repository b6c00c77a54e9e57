"""What counts as a neighbour's silence, and what does not."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast

from lepton_p2p.collectives.silence import SilenceWatch
from lepton_p2p.identity import PeerId
from lepton_p2p.rounds.patience import Patience, PatienceConfig
from lepton_p2p.transport.links.arrivals import Arrivals

LEFT = PeerId("1" * 32)


async def test_time_before_the_attempt_says_nothing_about_the_neighbour() -> None:
    """It may have been spent between rounds, or with this very process stopped."""
    now = asyncio.get_running_loop().time()
    patience = Patience(PatienceConfig.local())
    link = SimpleNamespace(last_received=now + 0.01, protocol=SimpleNamespace(gap=30.0))
    arrivals = cast(Arrivals, SimpleNamespace(link_from=lambda peer: link))
    watch = SilenceWatch(LEFT, arrivals, patience, lambda reason: None)
    watch.start()
    try:
        watch.chunk_began(1000, now + 0.01)
        assert patience.silence() == PatienceConfig.local().floor
        link.last_received, link.protocol.gap = now + 1.0, 0.6
        watch.chunk_began(1000, now + 1.0)
        assert patience.silence() > PatienceConfig.local().floor, "but this was its own hesitation"
    finally:
        watch.stop()
