"""The data cursor: which samples have been used, as part of the replicated state.

Nobody hands out samples.  Who claims what in a round is a pure function of the cursor after the round before, and what
became of the claims is a pure function of the round's result, which is the same on all members.  So all cursors are
equal, a claim needs no message, and the claims of a peer that died go back without anybody asking it.

Claims are ranges of *places* in the pass's permutation (``permutation.py``), not samples.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from lepton_p2p.identity import PeerId, peer_id
from lepton_p2p.replication.notes import MAX_RANGES, Note, NoteFlag
from lepton_p2p.replication.ranges import Range, join, size_of, split

MAX_TRIES = 2
"""A place whose numbers were refused this often is skipped: a bad sample must not come back for ever."""
MAX_SAMPLES = 1 << 35

Plan = Mapping[PeerId, tuple[Range, ...]]


@dataclass(frozen=True, slots=True)
class Cursor:
    """Immutable, JSON-able.

    total: samples of the data set.  seed: of the permutations.  batch: samples per peer and round.  pass_number: from
    0.  position: the first place of this pass never handed out.  returned: handed out and come back, disjoint, below
    ``position``.  used, skipped: places of this pass that are done.  step: rounds that had contributors.  work: how
    many contributors those had, all together.  samples, skips: used and skipped since the start.  claimants: who gets
    samples in the coming round, in order; nobody until the training starts.
    """

    total: int
    seed: int
    batch: int
    pass_number: int = 0
    position: int = 0
    returned: tuple[Range, ...] = ()
    used: int = 0
    skipped: int = 0
    step: int = 0
    work: int = 0
    samples: int = 0
    skips: int = 0
    claimants: tuple[PeerId, ...] = ()

    @property
    def remaining(self) -> int:
        """Places of this pass that are neither used nor skipped."""
        return self.total - self.used - self.skipped

    def plan(self) -> Plan:
        """The claim of every claimant in the coming round; disjoint, at most ``batch`` places, MAX_RANGES ranges each.

        Places that came back go first.  What is left of a pass is split evenly when it is less than a batch for each.
        """
        count = len(self.claimants)
        even, extra = divmod(self.remaining, count) if count else (0, 0)
        pool = [*self.returned, Range(self.position, self.total)]
        claims: dict[PeerId, tuple[Range, ...]] = {}
        for index, peer in enumerate(self.claimants):
            claims[peer], pool = _take(pool, min(self.batch, even + (index < extra)))
        return claims

    def advance(
        self,
        *,
        members: Sequence[PeerId],
        contributors: Collection[PeerId],
        refused: Collection[PeerId] = (),
        notes: Mapping[PeerId, bytes],
        founders: Collection[PeerId] = (),
    ) -> Cursor:
        """The cursor after a round with this result (arguments as in ``RoundResult``).

        Contributors' claims are used.  Claims of the refused come back with one more try, or are skipped after
        ``MAX_TRIES``.  All other claims come back as they were.  The next claimants are the members that say in their
        notes that they are ready; ``founders``: those that became it by this round, the first.  If nobody had a claim
        yet, nobody gets one until so many are ready as each member's note wants.
        """
        plan = self.plan()
        given = {peer: Note.read(notes.get(peer, b"")) for peer in members}
        used = skipped = 0
        back: list[Range] = list(_untouched(self.returned, plan))
        for peer, claim in plan.items():
            done, rest = _outcome(claim, given.get(peer)) if peer in contributors else ((), claim)
            if peer in refused:
                tried = [item._replace(tries=item.tries + 1) for item in rest]
                skipped += size_of(item for item in tried if item.tries >= MAX_TRIES)
                rest = tuple(item for item in tried if item.tries < MAX_TRIES)
            used += size_of(done)
            back.extend(rest)
        ready = [peer for peer in members if peer in founders or _is_ready(given[peer])]
        quorum = max((note.quorum for note in given.values() if note is not None), default=1)
        if not self.claimants and len(ready) < quorum:
            ready = []
        moved = replace(
            self,
            position=max((item.stop for claim in plan.values() for item in claim), default=0),
            returned=join(back),
            used=self.used + used,
            skipped=self.skipped + skipped,
            step=self.step + bool(contributors),
            work=self.work + len(contributors),
            samples=self.samples + used,
            skips=self.skips + skipped,
            # The refused come last: places that come back are handed out first, and should go to somebody else.
            claimants=tuple(sorted(ready, key=lambda peer: peer in refused)),
        )
        moved = replace(moved, position=max(self.position, moved.position))
        return moved if moved.remaining else moved._next_pass()

    def _next_pass(self) -> Cursor:
        return replace(self, pass_number=self.pass_number + 1, position=0, returned=(), used=0, skipped=0)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, strings and lists."""
        table = asdict(self)
        table["returned"] = [list(item) for item in self.returned]
        table["claimants"] = list(self.claimants)
        return table

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> Cursor:
        """Read and check what ``to_json`` gave; ``ValueError`` for anything inconsistent (network!)."""
        try:
            fields = dict(table)
            returned = tuple(Range(*(_count(number) for number in item)) for item in fields.pop("returned"))
            claimants = tuple(peer_id(item) for item in fields.pop("claimants"))
            cursor = cls(
                **{name: _count(value) for name, value in fields.items()}, returned=returned, claimants=claimants
            )
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"not a data cursor: {error}") from None
        cursor._check()
        return cursor

    def _check(self) -> None:
        bounds = 0 < self.total < MAX_SAMPLES and self.batch > 0 and self.position <= self.total
        ordered = all(item.start < item.stop for item in self.returned) and all(
            left.stop <= right.start for left, right in zip(self.returned, self.returned[1:], strict=False)
        )
        inside = not self.returned or self.returned[-1].stop <= self.position
        balance = self.used + self.skipped + size_of(self.returned) == self.position
        if not (bounds and ordered and inside and balance and self.remaining > 0):
            raise ValueError("not a data cursor: its numbers contradict each other")


def _take(pool: list[Range], count: int) -> tuple[tuple[Range, ...], list[Range]]:
    """The first ``count`` places of ``pool`` (in at most MAX_RANGES ranges), and what is left of it."""
    taken: list[Range] = []
    rest = list(pool)
    while rest and count and len(taken) < MAX_RANGES:
        first = rest.pop(0)
        cut = min(first.stop, first.start + count)
        taken += [first._replace(stop=cut)] if cut > first.start else []
        count -= cut - first.start
        if cut < first.stop:
            rest.insert(0, first._replace(start=cut))
    return tuple(taken), rest


def _untouched(returned: Sequence[Range], plan: Plan) -> tuple[Range, ...]:
    """What of the returned places nobody claims in this round."""
    return split(returned, [item for claim in plan.values() for item in claim])[1]


def _outcome(claim: tuple[Range, ...], note: Note | None) -> tuple[tuple[Range, ...], tuple[Range, ...]]:
    """``(used, not used)`` of a contributor's claim.

    Its gradient is in the result, so an unreadable note counts as the whole claim: rather a sample less than one twice.
    """
    return (claim, ()) if note is None else split(claim, note.claim)


def _is_ready(note: Note | None) -> bool:
    return note is not None and NoteFlag.READY in note.flags


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is not a count")
    return value
