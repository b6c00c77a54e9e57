"""What links are for."""

from __future__ import annotations

from enum import IntEnum

from lepton_p2p.transport.links.frames import MAX_EXTRA


class Purpose(IntEnum):
    """What a link is for; a ticket is good for one purpose."""

    RING = 1
    """Chunks of rounds, from the left neighbour (who connects) to the right one (who accepts), or to all others."""
    FETCH = 2
    """Ranges of results and snapshots, asked for by the side that connects."""
    PUSH = 3
    """Messages between two peers outside of rounds, from the side that connects."""

    @property
    def max_extra(self) -> int:
        """Bound on ``extra`` in frames of such a link, bytes: records, names and reasons, the header of a message."""
        return {Purpose.RING: MAX_EXTRA, Purpose.FETCH: 1 << 10, Purpose.PUSH: 64 << 10}[self]
