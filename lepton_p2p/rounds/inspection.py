"""What a member checks in what the others say of themselves, before it takes a sum that they are part of."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from lepton_p2p.identity import short
from lepton_p2p.rounds.epoch import Epoch
from lepton_p2p.rounds.records import Record

DIFFER = "tensors or operation differ"
"""How the reason begins when inputs do not fit together; the agreement's rejection begins so, too."""

_decoded = lru_cache(maxsize=1024)(Record.decode)
"""The same records come with every segment."""


def agreeing(mine: Record, epoch: Epoch, encoded: Sequence[bytes]) -> list[Record]:
    """The records known so far, decoded.

    ``ValueError`` (in one line, for the attempt that breaks by it) if one is of a stranger, or does not fit
    ``mine``: other tensors or operation, another last result, another state before the round.
    """
    records = [_decoded(record) for record in encoded]
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
    return records
