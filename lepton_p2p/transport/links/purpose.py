"""What links are for."""

from __future__ import annotations

from enum import IntEnum


class Purpose(IntEnum):
    """What a link is for; a ticket is good for one purpose."""

    RING = 1
    """Chunks of rounds, from the left neighbour (who connects) to the right one (who accepts)."""
    FETCH = 2
    """Ranges of results and snapshots, asked for by the side that connects."""
    PUSH = 3
    """Messages between two peers outside of rounds, from the side that connects."""
