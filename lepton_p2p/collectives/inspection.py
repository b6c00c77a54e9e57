"""What a member says of itself in a round, and what it checks in what the others say."""

from __future__ import annotations

from collections.abc import Sequence

from lepton_p2p.collectives.operations import Op
from lepton_p2p.collectives.pending import Pending
from lepton_p2p.identity import PeerId
from lepton_p2p.rounds.epoch import Epoch
from lepton_p2p.rounds.inspection import agreeing
from lepton_p2p.rounds.records import Flag, Record


def own_record(me: PeerId, pending: Pending, previous: int, *, shares: bool = False, board: int = 0) -> Record:
    """This member's record for the pending round; ``previous``: digest of the last result as it holds it.

    ``shares``, ``board``: see ``Boards``.
    """
    return Record(
        peer=me,
        weight=pending.weight,
        schema=pending.packed.schema,
        previous=previous,
        state=pending.state,
        flags=(Flag.NONE if pending.packed.finite else Flag.NON_FINITE) | (Flag.SHARES if shares else Flag.NONE),
        board=board,
        note=pending.note,
    )


def inspect(mine: Record, epoch: Epoch, op: Op, encoded: Sequence[bytes]) -> float | None:
    """Check the records known so far; with all of them, return what a mean is divided by (None: nothing).

    ``ValueError`` breaks the attempt: the agreement then compares all reports and decides who is to start anew.
    """
    records = agreeing(mine, epoch, encoded)
    if op is not Op.MEAN or len(records) < len(epoch.ids):
        return None
    return sum(record.weight for record in records) or None
