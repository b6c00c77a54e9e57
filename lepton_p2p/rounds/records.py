"""What every member tells every other in a round, carried by the ring's own frames.

A round's records are its replicated log: who contributed with which weight, what each one held before, and an
opaque ``note`` from the room above (training puts its claimed samples there).  All members see the same
records, in ring order, when the round completes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntFlag

from lepton_p2p.identity import PeerId

_FIXED = struct.Struct("!16sdBQQQQH")
MAX_NOTE = 1024
"""Bytes of a note; the limit on what a member may make the others hold."""
MAX_RECORD = _FIXED.size + MAX_NOTE


class Flag(IntFlag):
    """What a member says of its own contribution."""

    NONE = 0
    NON_FINITE = 1
    """Its tensors held NaN or Inf: it counts with weight 0 and applies what the others made."""
    SHARES = 2
    """It can give memory to its right neighbour: they are on one machine."""


@dataclass(frozen=True, slots=True)
class Record:
    """``peer``'s line in the log of a round.

    ``schema``: 64-bit hash of names, shapes, dtypes and operation.  ``previous``: digest of the last round's
    result as this peer holds it (0: a newcomer).  ``state``: the caller's digest of what it holds before the
    round (0: it does not say).  ``weight``: finite, at least 0.  ``board``: the newest board that it has in this
    epoch (0: none; see ``board_choice.py``).
    """

    peer: PeerId
    weight: float
    schema: int
    previous: int = 0
    state: int = 0
    flags: Flag = Flag.NONE
    board: int = 0
    note: bytes = b""

    def encode(self) -> bytes:
        """The record as bytes, ``MAX_RECORD`` at most; ``ValueError`` if the note is longer than ``MAX_NOTE``."""
        if len(self.note) > MAX_NOTE:
            raise ValueError(f"a note is at most {MAX_NOTE} bytes, this one has {len(self.note)}")
        head = _FIXED.pack(
            bytes.fromhex(self.peer),
            self.weight,
            self.flags,
            self.schema,
            self.previous,
            self.state,
            self.board,
            len(self.note),
        )
        return head + self.note

    @classmethod
    def decode(cls, data: bytes) -> Record:
        """Read what ``encode`` wrote; ``ValueError`` for anything else (bytes come from the network)."""
        if len(data) < _FIXED.size:
            raise ValueError(f"a record has at least {_FIXED.size} bytes, this one {len(data)}")
        peer, weight, flags, schema, previous, state, board, length = _FIXED.unpack_from(data)
        note = bytes(data[_FIXED.size :])
        if len(note) != length or length > MAX_NOTE:
            raise ValueError(f"a record announces a note of {length} bytes and carries {len(note)}")
        if not 0.0 <= weight < float("inf"):
            raise ValueError(f"a weight is finite and at least 0, not {weight}")
        return cls(PeerId(peer.hex()), weight, schema, previous, state, Flag(flags & 3), board, note)
