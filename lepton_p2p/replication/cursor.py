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
from lepton_p2p.replication.branch import Branch
from lepton_p2p.replication.notes import MAX_RANGES, Note, NoteFlag
from lepton_p2p.replication.ranges import Range, join, overlap, size_of, split
from lepton_p2p.replication.trail import MOST, Gain, Mark, common, gather, link, remember

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

    entering: others who may hold the state, or come to it: the rest of the members of the last round.  parted: in that
    somebody fell away, who may fetch its result all the same.  chain: names this state by the rounds that led to it.
    last: the state before it; trail: earlier ones, where a split may have begun (see ``trail.py``).  bearer: who brings
    its branch into the coming round, in which nobody else has a share.  unions: branches that were brought in so far;
    gains: the last ones.  unites: whether any are; not where single peers are not trusted, since what one brings nobody
    else has seen.
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
    entering: tuple[PeerId, ...] = ()
    parted: bool = False
    chain: int = 0
    last: Mark | None = None
    trail: tuple[Mark, ...] = ()
    bearer: PeerId | None = None
    unions: int = 0
    gains: tuple[Gain, ...] = ()
    unites: bool = True

    @property
    def mark(self) -> Mark:
        """This state, as trails tell it."""
        return Mark(self.chain, self.samples, self.skips, self.work)

    @property
    def states(self) -> tuple[Mark, ...]:
        """What is known of the way here, and where it is."""
        return (*self.trail, *((self.last,) if self.last else ()), self.mark)

    @property
    def doubled(self) -> int:
        """How many samples were used twice, since both sides of a split used them: more than there are places."""
        places = self.pass_number * self.total + self.used + self.skipped
        return max(0, self.samples + self.skips - places)

    @property
    def remaining(self) -> int:
        """Places of this pass that are neither used nor skipped."""
        return self.total - self.used - self.skipped

    def plan(self) -> Plan:
        """The claim of every claimant in the coming round; disjoint, at most ``batch`` places, MAX_RANGES ranges each.

        Places that came back go first.  What is left of a pass is split evenly when it is less than a batch for each.
        """
        if self.bearer is not None:
            return {}
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
        given = {peer: Note.read(notes.get(peer, b"")) for peer in members}
        branch = self._brought(contributors, given)
        moved = self._unite(branch) if branch else self._use(given, contributors, refused)
        ready = self._next_claimants(members, given, founders)
        start, apart = self._begun(founders, given), self._falls_apart(given, ready)
        return replace(
            moved,
            # The refused come last: places that come back are handed out first, and should go to somebody else.
            claimants=tuple(sorted(ready, key=lambda peer: peer in refused)),
            entering=tuple(sorted(set(members).difference(ready))),
            parted=apart,
            chain=link(start.chain, *(peer.encode() + notes.get(peer, b"") for peer in members)),
            last=start.mark,
            trail=start._trail(branch, split=apart or self.parted),
            bearer=_bearer(members, given, branch) if self.unites else None,
        )

    def _falls_apart(self, given: Mapping[PeerId, Note | None], ready: Sequence[PeerId]) -> bool:
        """Whether somebody that may hold this state does not go on with the others, or has begun to enter anew."""
        waiting = {peer for peer, note in given.items() if note is not None and NoteFlag.WANTS_STATE in note.flags}
        return not (set(self.claimants) <= set(ready) and set(self.entering) <= given.keys() - waiting)

    def _next_claimants(
        self, members: Sequence[PeerId], given: Mapping[PeerId, Note | None], founders: Collection[PeerId]
    ) -> list[PeerId]:
        ready = [peer for peer in members if peer in founders or _is_ready(given[peer])]
        quorum = max((note.quorum for note in given.values() if note is not None), default=1)
        return ready if self.claimants or len(ready) >= quorum else []

    def _trail(self, branch: Branch | None, *, split: bool) -> tuple[Mark, ...]:
        """What is remembered from now on.  ``split``: somebody fell away, and may go on from here, or from one round
        earlier if it did not get the last result.
        """
        trail = remember(self.trail, [*branch.since, branch.end] if branch else ())
        return remember(trail, [*((self.last,) if self.last else ()), self.mark]) if split else trail

    def _use(
        self, given: Mapping[PeerId, Note | None], contributors: Collection[PeerId], refused: Collection[PeerId]
    ) -> Cursor:
        """What became of the claims."""
        plan = self.plan()
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
        # Who should bear a branch and brings something else has no share.
        counted = 0 if self.bearer is not None else len(contributors)
        moved = replace(
            self,
            position=max([self.position, *(item.stop for claim in plan.values() for item in claim)]),
            returned=join(back),
            used=self.used + used,
            skipped=self.skipped + skipped,
            step=self.step + bool(counted),
            work=self.work + counted,
            samples=self.samples + used,
            skips=self.skips + skipped,
        )
        return moved if moved.remaining else moved._next_pass()

    def _next_pass(self) -> Cursor:
        return replace(self, pass_number=self.pass_number + 1, position=0, returned=(), used=0, skipped=0)

    # -- branches ------------------------------------------------------------------------------------------

    def _brought(self, contributors: Collection[PeerId], given: Mapping[PeerId, Note | None]) -> Branch | None:
        """What the bearer brought; None if nobody was to, or it died, or what it brought fits nowhere."""
        note = given.get(self.bearer) if self.bearer in contributors and self.bearer is not None else None
        branch = note.branch if note is not None else None
        if branch is None or branch.position > self.total or not any(m.chain == branch.fork for m in self.states):
            return None
        return branch

    def _unite(self, branch: Branch) -> Cursor:
        """Used is what either side has used; what both have counts twice in ``samples``, and so in ``doubled``.

        Of two sides in different passes the further one has used all that the other one was at.
        """
        root = common(next(m for m in self.states if m.chain == branch.fork), self.gains, branch.gains)
        end = branch.end
        samples, skips, work = (max(0, end[index] - root[index]) for index in (1, 2, 3))
        own = (*self.returned, Range(self.position, self.total))
        if branch.pass_number > self.pass_number:
            unused, skipped = branch.unused(self.total), branch.skipped
        elif branch.pass_number < self.pass_number:
            unused, skipped = own, self.skipped
        else:
            unused, skipped = overlap(own, branch.unused(self.total)), max(self.skipped, branch.skipped)
        unused = join(unused)
        fresh = bool(unused) and unused[-1].stop == self.total and not unused[-1].tries
        done = self.total - size_of(unused)
        moved = replace(
            self,
            pass_number=max(self.pass_number, branch.pass_number),
            position=unused[-1].start if fresh else self.total,
            returned=unused[:-1] if fresh else unused,
            used=done - min(skipped, done),
            skipped=min(skipped, done),
            step=self.step + 1,
            work=self.work + work,
            samples=self.samples + samples,
            skips=self.skips + skips,
            unions=self.unions + 1,
            gains=gather([*self.gains, *branch.gains, Gain(end.chain, self.work, samples, skips, work)]),
        )
        return moved if moved.remaining else moved._next_pass()

    def _begun(self, founders: Collection[PeerId], given: Mapping[PeerId, Note | None]) -> Cursor:
        """This cursor; if the training starts with it, with a name that swarms have in common which start from the same
        state.
        """
        if not founders:
            return self
        note = next((given[peer] for peer in sorted(founders) if given.get(peer)), None)
        seed = note.seed if note is not None else 0
        begun = replace(self, chain=link(self.chain, seed.to_bytes(8, "big")), last=None)
        # Who comes from a state that it had kept may meet those that held the one before.
        before = [*((self.last,) if self.last else ()), *((self.mark,) if self.chain else ())]
        return replace(begun, trail=remember(self.trail, [*before, begun.mark]))

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, strings and lists."""
        table = asdict(self)
        table["returned"] = [list(item) for item in self.returned]
        table["claimants"], table["entering"] = list(self.claimants), list(self.entering)
        table["trail"] = [list(mark) for mark in self.trail]
        table["gains"] = [list(gain) for gain in self.gains]
        table["last"] = list(self.last) if self.last else []
        table["bearer"] = [self.bearer] if self.bearer else []
        return table

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> Cursor:
        """Read and check what ``to_json`` gave; ``ValueError`` for anything inconsistent (network!)."""
        try:
            fields = dict(table)
            returned = tuple(Range(*(_count(number) for number in item)) for item in fields.pop("returned"))
            claimants = tuple(peer_id(item) for item in fields.pop("claimants"))
            entering = tuple(peer_id(item) for item in fields.pop("entering", ()))
            trail = tuple(_mark(item) for item in fields.pop("trail", ()))
            gains = tuple(Gain(*(_count(number) for number in item)) for item in fields.pop("gains", ()))
            last, bearer = fields.pop("last", ()), fields.pop("bearer", ())
            unites, parted = bool(fields.pop("unites", True)), bool(fields.pop("parted", False))
            cursor = cls(
                **{name: _count(value) for name, value in fields.items()},
                returned=returned,
                claimants=claimants,
                entering=entering,
                trail=trail,
                gains=gains,
                last=_mark(last) if last else None,
                bearer=peer_id(*bearer) if bearer else None,
                unites=unites,
                parted=parted,
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
        short = len(self.trail) <= MOST and len(self.gains) <= MOST
        if not (bounds and ordered and inside and balance and short and self.remaining > 0):
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


def _bearer(members: Sequence[PeerId], given: Mapping[PeerId, Note | None], brought: Branch | None) -> PeerId | None:
    """The first in the ring that holds the state and carries a branch, other than the one that was brought just now."""
    for peer in members:
        note = given[peer]
        if note is None or not note.carries or not _is_ready(note):
            continue
        if brought is None or note.carries != brought.end.chain:
            return peer
    return None


def _mark(item: Sequence[object]) -> Mark:
    return Mark(*(_count(number) for number in item))


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is not a count")
    return value
