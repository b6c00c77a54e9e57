"""What a peer writes into its round note: whether it holds the state, and which samples its tensors are made of."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from enum import IntFlag
from functools import lru_cache

from lepton_p2p.replication.branch import Branch
from lepton_p2p.replication.ranges import Range
from lepton_p2p.replication.varint import varint, varints

VERSION = 5
MAX_RANGES = 64
"""Of one claim: 51 + 64 * 2 * 5 bytes stay below the limit of a note for data sets of up to 2**35 samples.  Who brings
a branch claims nothing."""
_HEAD = struct.Struct("!BBBdHQHHQH")
_FRESH = struct.Struct("!QQ")
_UNKNOWN = 2**64 - 1


class NoteFlag(IntFlag):
    """How far its sender is."""

    NONE = 0
    READY = 1
    """I hold the state before this round: give me samples from the next round on, drop snapshots kept for me."""
    WANTS_STATE = 2
    """I hold nothing: whoever is ready, capture the state before applying this round and keep it for me."""
    FRESH = 4
    """I have never seen a round of this training: where all are fresh, it starts from the seeded state."""
    RESCUES = 8
    """Nobody holds the state any more, but I hold an earlier one or a branch's: go on from that."""


_STARTS = NoteFlag.FRESH | NoteFlag.RESCUES


@dataclass(frozen=True, slots=True)
class Note:
    """``claim``: the places (in the pass's permutation) whose gradient the sender put in; ``loss_sum`` over them.

    ``failures``: how often in a row the sender could not fetch the state (counted up to 255).  ``quorum``: how many
    members must hold the state before anybody gets samples, if it goes by the sender (up to 65535).

    Of those that are not ready: ``work``, contributions in the state that the sender holds or held last; ``waited``,
    seconds since nobody in the epoch held the state (see ``vigil.py``; up to 65535).

    ``carries``: the chain of a state that the sender held in a lineage of its own and that is not part of this one yet
    (0: none); ``branch``: that, if it is brought into this round.

    Only of those that are fresh or rescue: ``seen``: how many rounds the swarm has done, if the sender took part in
    all of them (None: it did not), so that it knows that no state is lost if nobody has any.  ``seed``: 64-bit digest
    of the state that it would start from.
    """

    flags: NoteFlag = NoteFlag.NONE
    claim: tuple[Range, ...] = ()
    loss_sum: float = 0.0
    failures: int = 0
    seen: int | None = None
    seed: int = 0
    work: int = 0
    quorum: int = 1
    waited: int = 0
    carries: int = 0
    branch: Branch | None = None

    def encode(self) -> bytes:
        """At most ``MAX_NOTE`` (1024) bytes; ``ValueError`` for more than ``MAX_RANGES`` ranges."""
        if len(self.claim) > MAX_RANGES:
            raise ValueError(f"a claim has at most {MAX_RANGES} ranges, this one {len(self.claim)}")
        body = b""
        if self.flags & _STARTS:
            body = _FRESH.pack(_UNKNOWN if self.seen is None else self.seen, self.seed)
        body += b"".join(varint(number) for item in self.claim for number in (item.start, item.size))
        branch = self.branch.encode() if self.branch is not None else b""
        failures, quorum = min(self.failures, 255), min(self.quorum, 0xFFFF)
        waited = min(self.waited, 0xFFFF)
        counts = (failures, self.loss_sum, len(self.claim), self.work, quorum, waited, self.carries, len(branch))
        return _HEAD.pack(VERSION, self.flags, *counts) + branch + body

    @classmethod
    def decode(cls, data: bytes) -> Note:
        """Read what ``encode`` wrote; ``ValueError`` for anything else (bytes come from the network)."""
        if len(data) < _HEAD.size:
            raise ValueError("a training note is too short")
        version, flags, *counts = _HEAD.unpack_from(data)
        failures, loss_sum, count, work, quorum, waited, carries, size = counts
        if version != VERSION or count > MAX_RANGES or flags & ~15:
            raise ValueError(f"not a training note of version {VERSION}")
        start = _HEAD.size + size
        branch = Branch.decode(data[_HEAD.size : start]) if size else None
        rest = data[start:]
        seen, seed = _UNKNOWN, 0
        if flags & _STARTS:
            if len(rest) < _FRESH.size:
                raise ValueError("a training note is too short")
            seen, seed = _FRESH.unpack_from(rest)
            rest = rest[_FRESH.size :]
        numbers, rest = varints(rest, 2 * count)
        if rest or any(number >= 1 << 35 for number in numbers):
            raise ValueError(f"a training note announces {count} ranges and carries something else")
        claim = tuple(Range(first, first + size) for first, size in zip(numbers[::2], numbers[1::2], strict=True))
        # A loss is only shown: a broken one must not break the round.
        loss_sum = loss_sum if math.isfinite(loss_sum) else 0.0
        known = None if seen == _UNKNOWN else seen
        return cls(NoteFlag(flags), claim, loss_sum, failures, known, seed, work, quorum, waited, carries, branch)

    @classmethod
    def read(cls, data: bytes) -> Note | None:
        """``decode``, with None for what is not a training note."""
        return _read(data)


@lru_cache(maxsize=512)
def _read(data: bytes) -> Note | None:
    # Several of a round's parts look at the same notes, each for what it is about.
    try:
        return Note.decode(data)
    except ValueError:
        return None
