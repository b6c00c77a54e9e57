"""What a lineage did by itself while the swarm was split, in the few numbers that the other side needs.

Two lineages that meet become one in three steps: all of the lighter one enter the heavier one and keep what they held
(``agreement.py``); one of them *bears* its parameters into a round (``Cursor.bearer``); all members move by the
weighted difference, and their cursors count as used what either side has used.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from lepton_p2p.replication.ranges import Range
from lepton_p2p.replication.trail import Gain, Mark
from lepton_p2p.replication.varint import varint, varints

MOST_MARKS = 12
"""Of a branch's own trail that travel: the newest."""
MOST_GAINS = 4
"""Of branches in a branch, likewise."""
MOST_BYTES = 700
"""Of an encoded branch: together with the rest of a note below the limit of that."""
_HEAD = struct.Struct("!QQBBH")
_MARK = struct.Struct("!Q")


@dataclass(frozen=True, slots=True)
class Branch:
    """``fork``: chain of the state where it began.  ``end``: where it ended.  ``since``: its trail in between.
    ``gains``: branches that were brought into it.

    pass_number, position, returned, skipped: of its cursor.
    """

    fork: int
    end: Mark
    since: tuple[Mark, ...]
    pass_number: int
    position: int
    returned: tuple[Range, ...]
    skipped: int
    gains: tuple[Gain, ...] = ()

    def encode(self) -> bytes:
        """At most ``MOST_BYTES``.

        Places that came back are told in as few ranges as fit: what lies between two of them may be declared unused,
        is used again then, and counted as used twice.
        """
        since, gains, returned = self.since[-MOST_MARKS:], self.gains[-MOST_GAINS:], self.returned
        while len(data := self._packed(since, gains, returned)) > MOST_BYTES:
            if len(returned) > 1:
                returned = _coarser(returned)
            else:
                since = since[1:]
        return data

    def _packed(self, since: Sequence[Mark], gains: Sequence[Gain], returned: Sequence[Range]) -> bytes:
        head = _HEAD.pack(self.fork, self.end.chain, len(since), len(gains), len(returned))
        numbers = [self.pass_number, self.position, self.skipped, *self.end[1:]]
        chained: list[Mark | Gain] = [*since, *gains]
        told = b"".join(_MARK.pack(one.chain) + b"".join(map(varint, one[1:])) for one in chained)
        back = b"".join(varint(number) for item in returned for number in (item.start, item.size, item.tries))
        return head + b"".join(map(varint, numbers)) + told + back

    @classmethod
    def decode(cls, data: bytes) -> Branch:
        """Read what ``encode`` wrote; ``ValueError`` for anything else (bytes come from the network)."""
        if not _HEAD.size <= len(data) <= MOST_BYTES:
            raise ValueError(f"a branch has {_HEAD.size} to {MOST_BYTES} bytes, not {len(data)}")
        fork, chain, marks, gains, ranges = _HEAD.unpack_from(data)
        head, rest = varints(data[_HEAD.size :], 6)
        since, rest = _chained(rest, marks, 3)
        brought, rest = _chained(rest, gains, 4)
        flat, rest = varints(rest, 3 * ranges)
        triples = zip(flat[::3], flat[1::3], flat[2::3], strict=True)
        returned = tuple(Range(start, start + size, tries) for start, size, tries in triples)
        pass_number, position, skipped, *done = head
        marked, gained = tuple(Mark(*one) for one in since), tuple(Gain(*one) for one in brought)
        branch = cls(fork, Mark(chain, *done), marked, pass_number, position, returned, skipped, gained)
        branch._check(rest)
        return branch

    def _check(self, rest: bytes) -> None:
        ordered = all(left.stop <= right.start for left, right in pairwise(self.returned))
        inside = all(item.start < item.stop <= self.position for item in self.returned)
        if rest or not ordered or not inside:
            raise ValueError("not a branch: its numbers contradict each other")

    def unused(self, total: int) -> tuple[Range, ...]:
        """The places of its pass that it has not used, of ``total``."""
        return (*self.returned, Range(self.position, total)) if self.position < total else self.returned


def _chained(data: bytes, count: int, more: int) -> tuple[list[tuple[int, ...]], bytes]:
    """``count`` times a chain and ``more`` numbers, and what follows them."""
    found = []
    for _ in range(count):
        if len(data) < _MARK.size:
            raise ValueError("a branch is too short")
        numbers, rest = varints(data[_MARK.size :], more)
        found.append((_MARK.unpack_from(data)[0], *numbers))
        data = rest
    return found, data


def share(ours: Mark, theirs: Mark, fork: Mark) -> float:
    """The weight of their side in the mean of both: by samples since the fork, 0 to 1.

    By contributions, if nobody counts samples (programs that find their own).  Those used before the fork, or that came
    from a third side which both have met, weigh nothing.  ``fork``: see ``trail.common``.
    """
    own, other = max(0, ours.samples - fork.samples), max(0, theirs.samples - fork.samples)
    if not own and not other:
        own, other = max(0, ours.work - fork.work), max(0, theirs.work - fork.work)
    return other / (own + other) if other else 0.0


def _coarser(returned: tuple[Range, ...]) -> tuple[Range, ...]:
    """One range less: the two with the smallest gap are made one."""
    gaps = [right.start - left.stop for left, right in pairwise(returned)]
    at = gaps.index(min(gaps))
    left, right = returned[at : at + 2]
    return (*returned[:at], Range(left.start, right.stop, min(left.tries, right.tries)), *returned[at + 2 :])
