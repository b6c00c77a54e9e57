"""On what footing a peer takes part in the rounds of a training, as a pure state machine.

============  ==============================  ==========================================================
footing       means                           leaves by
============  ==============================  ==========================================================
entering      holds nothing, wants the state  a round with its wish in it -> catching up (or established,
                                              if it founds)
catching up   fetches the state, keeps the    ``caught_up`` -> established; ``fetch_failed`` -> entering
              results of the rounds since
established   holds the swarm's state         ``enter_again`` (dropped), ``step_out`` (gave up) -> entering
============  ==============================  ==========================================================

Every decision depends on replicated values only (results and their notes), so all members take the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from lepton_p2p.identity import PeerId
from lepton_p2p.replication.branch import Branch
from lepton_p2p.replication.notes import Note, NoteFlag
from lepton_p2p.replication.ranges import Range
from lepton_p2p.rounds.result import RoundResult

PATIENCE = 3
"""Failed fetches in a row after which those that are done no longer wait for a newcomer."""

Notes = Mapping[PeerId, Note | None]


class Deed(Enum):
    """What a peer does with the result of a round."""

    APPLY = auto()
    """Step from the state before the round to the one after it."""
    KEEP = auto()
    """Keep it until the state has arrived that it is to be applied to."""
    FETCH = auto()
    """Fetch the state from before this round, and keep the result."""
    WAIT = auto()
    """Nobody can give the state in this round (it is being founded, or still on its way): ask in the next one."""
    LOST = auto()
    """Nobody in the epoch holds the state; perhaps somebody else does."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What follows from one round's result here.

    settled: peers that need no snapshot any more.  wanting: peers for which the state from before the round is kept
    (not empty only with ``APPLY``).  founders: whose state the training starts from, if this is its first round.
    waited: the longest that any member has waited for somebody who holds the state, seconds.  carried: whether somebody
    holds another one, from which the training could go on if nobody comes back.  begins: contributions in
    the state that is held from this round on, if that changes by it (founded: those of the founders, lost: 0).
    """

    deed: Deed
    founders: Collection[PeerId]
    settled: tuple[PeerId, ...] = ()
    wanting: frozenset[PeerId] = frozenset()
    waited: int = 0
    begins: int | None = None
    carried: bool = False


class Footing:
    """One peer's; see the table above.  ``quorum``: how many must hold the state before the training starts."""

    def __init__(self, quorum: int = 1) -> None:
        self.established = False
        """Whether the replica holds the swarm's state."""
        self.all_ready = False
        """Whether all members of the last round did, so that nobody needs more rounds to catch up."""
        self.founded = False
        """Whether what it holds goes back to what it held itself, and was not fetched from others."""
        self.rejections = 0
        """Rounds in a row that had no result."""
        self._quorum = quorum
        self._catching = False
        self._fresh = True
        self._rescuing = False
        self._failures = 0

    def note(
        self,
        claim: Sequence[Range],
        loss_sum: float,
        *,
        seen: Callable[[], int | None],
        seed: Callable[[], int],
        work: int = 0,
        waited: int = 0,
        carries: int = 0,
        branch: Branch | None = None,
    ) -> Note:
        """What to write into the coming round.

        ``seen``: how many rounds the swarm has done, if this peer took part in all of them; ``seed``: the digest of
        what it would start from.  Both are only asked while it is fresh.  ``work``: contributions in what it holds.
        ``waited``: seconds since nobody here holds the state.  ``carries``, ``branch``: see ``Note``.
        """
        if self.established:
            ready = NoteFlag.READY
            return Note(ready, tuple(claim), loss_sum, quorum=self._quorum, carries=carries, branch=branch)
        flags = NoteFlag.NONE if self._catching else NoteFlag.WANTS_STATE
        if not (self._fresh or self._rescuing):
            quorum = self._quorum
            return Note(flags, failures=self._failures, work=work, quorum=quorum, waited=waited, carries=carries)
        flags |= NoteFlag.FRESH if self._fresh else NoteFlag.RESCUES
        known = seen() if self._fresh else None
        return Note(flags, (), 0.0, self._failures, known, seed(), work, self._quorum, waited, carries)

    def take(self, result: RoundResult, me: PeerId) -> Turn:
        """A round is decided: what to do with it.  ``me`` took part in it."""
        notes = _read(result)
        founders = founders_of(result)
        ready = [peer for peer, note in notes.items() if note and NoteFlag.READY in note.flags]
        self.rejections = 0
        if me in founders:
            self.established = self.founded = True
            self._rescuing = False
        deed = self._deed(notes, founding=bool(founders), ready=bool(ready))
        self._catching = self._catching or deed is Deed.FETCH
        self._fresh = False
        hopeless = {peer for peer, note in notes.items() if note and note.failures >= PATIENCE}
        carrying = {peer for peer, note in notes.items() if note and note.carries}
        # Who has something to bring in is waited for, too.
        self.all_ready = set(result.members) <= hopeless.union(ready, founders) and carrying <= hopeless
        begins = max(note.work for peer, note in notes.items() if note and peer in founders) if founders else None
        if deed is not Deed.APPLY:
            waited = max((note.waited for note in notes.values() if note), default=0)
            begins = 0 if deed is Deed.LOST else begins
            return Turn(deed, founders, waited=waited, begins=begins, carried=bool(carrying))
        asked = {peer for peer, note in notes.items() if note and NoteFlag.WANTS_STATE in note.flags}
        wanting = set() if founders else (asked | set(result.newcomers)) - set(ready)
        return Turn(deed, founders, (*ready, *sorted(wanting)), frozenset(wanting), begins=begins)

    def rescue(self) -> None:
        """Nobody that holds the state came back; the replica holds another one now, from which to go on."""
        self._rescuing = True

    def rejected(self) -> None:
        """The members agreed that the round has no result."""
        self.rejections += 1

    def caught_up(self) -> None:
        """The state has arrived and what was kept has been applied."""
        self.established, self.founded, self._catching, self._failures = True, False, False, 0
        self._fresh = self._rescuing = False

    def fetch_failed(self) -> None:
        """Nobody could give the state (any more): ask for a newer one."""
        self._catching = False
        self._failures += 1

    def enter_again(self) -> None:
        """What is held is obsolete: ask for the state in the next round.

        Who has not had a round yet (its first epoch yielded to another one at once) is as fresh as before.
        """
        self.established = self.all_ready = self._catching = self._rescuing = False
        self.rejections = 0

    def step_out(self) -> None:
        """This peer took its round back, and the others go on: what it holds is obsolete, unless nobody else is left.

        Then, in the first round of a new swarm, the training starts from what this peer holds.
        """
        fresh = self._fresh or self.established
        self.enter_again()
        self._fresh = fresh

    def _deed(self, notes: Notes, *, founding: bool, ready: bool) -> Deed:
        if self.established:
            return Deed.APPLY
        if self._catching:
            return Deed.KEEP
        if founding or ready:
            return Deed.WAIT if founding else Deed.FETCH
        # Nobody holds the state now.  Who still fetches it may come to hold it, so all must have given up.
        lost = all(note and NoteFlag.WANTS_STATE in note.flags for note in notes.values())
        return Deed.LOST if lost else Deed.WAIT


def founders_of(result: RoundResult) -> Collection[PeerId]:
    """Whose state the training starts from, if ``result`` is its first round; nobody otherwise.

    It is, if nobody has ever seen a round of this training and somebody knows that there was none: otherwise those
    that held the state may just have died.  (Who has seen rounds of another lineage, which had not come as far as a
    checkpoint that is there, does not count.)  The state with the most work counts, of several that of the member
    which is first in the ring; and who holds the same founds too.

    It also starts again, from the state with the most work that anybody carries, if the wait for those that held the
    one from before is over: all members know that there is none, since all of them wait.
    """
    notes = _read(result)
    in_order = [notes.get(peer) for peer in result.members]
    rescuers = [note for note in in_order if note is not None and NoteFlag.RESCUES in note.flags]
    if rescuers and all(note is not None and NoteFlag.WANTS_STATE in note.flags and note.waited for note in in_order):
        return _like(max(rescuers, key=lambda note: note.work), rescuers, notes)
    fresh = [note for note in in_order if note is not None and NoteFlag.FRESH in note.flags]
    if not any(note.seen is not None and note.seen + 1 == result.round for note in fresh):
        return ()
    best = max(fresh, key=lambda note: note.work)
    for note in in_order:
        if note is None or NoteFlag.READY in note.flags:
            return ()
        if NoteFlag.FRESH not in note.flags and note.work >= best.work:
            return ()
    return _like(best, fresh, notes)


def _like(best: Note, candidates: Sequence[Note], notes: Notes) -> Collection[PeerId]:
    """Those of the candidates that hold the same as the best."""
    same = [note for note in candidates if (note.work, note.seed) == (best.work, best.seed)]
    return frozenset(peer for peer, note in notes.items() if note in same)


def _read(result: RoundResult) -> Notes:
    return {peer: Note.read(data) for peer, data in result.notes.items()}
