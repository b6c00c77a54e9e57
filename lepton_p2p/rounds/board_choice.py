"""On which board the next round is made, told from the records of the last: the same answer on all members.

A *board* is memory that all members of an epoch see, possible if all of them are on one machine (see
``transport/links/board.py``).  The first member of the ring makes it and hands it on; each says in its record which it
has.  When all have named the same one, all know that all have it, and use it from the next round on.
"""

from __future__ import annotations

from collections.abc import Sequence

from lepton_p2p.rounds.records import Flag, Record

SMALLEST = 64 << 10
"""Rounds of fewer bytes are not worth a board: what they move fits behind their headers."""
_GROWTH = 1.5


def agreed(records: Sequence[Record]) -> int:
    """The board that all members have; 0: none.  ``records``: those of the last round of the same epoch."""
    first = records[0].board
    return first if all(record.board == first for record in records) else 0


def wanted(records: Sequence[Record], nbytes: int, capacity: int) -> int:
    """How large a board for rounds like this one of ``nbytes`` should be; 0: there is none to be made.

    ``capacity``: of the newest board that the asker, the first of the ring, has made in this epoch (0: none yet).
    """
    alone = len(records) < 2
    if alone or nbytes < SMALLEST or nbytes <= capacity or not all(record.flags & Flag.SHARES for record in records):
        return 0
    return max(nbytes, int(_GROWTH * capacity))
