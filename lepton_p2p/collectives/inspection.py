"""What a member says of itself in a round, and what it checks in what the others say."""

from __future__ import annotations

from collections.abc import Sequence

from lepton_p2p.collectives.operations import Op
from lepton_p2p.collectives.pending import Pending
from lepton_p2p.identity import PeerId, short
from lepton_p2p.rounds.epoch import Epoch
from lepton_p2p.rounds.records import Flag, Record

DIFFER = "tensors or operation differ"
"""How the reason begins when inputs do not fit together; the agreement's rejection begins so, too."""


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
    records = [Record.decode(record) for record in encoded]
    for record in records:
        if record.peer not in epoch.ids:
            raise ValueError(f"a record of {short(record.peer)}, who is not a member")
        if record.schema != mine.schema:
            raise ValueError(f"{DIFFER}: {short(record.peer)} brought others than {short(mine.peer)}")
        for what, theirs, ours in (
            ("the last result", record.previous, mine.previous),
            ("the state before the round", record.state, mine.state),
        ):
            if theirs and ours and theirs != ours:
                raise ValueError(f"{short(record.peer)} and {short(mine.peer)} differ in {what}")
    if op is not Op.MEAN or len(records) < len(epoch.ids):
        return None
    return sum(record.weight for record in records) or None
