"""What keeps one replica in step with all others, round by round: founding, donating, catching up, applying.

Every decision depends on replicated values only (cursor, result, notes), so all members take the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import structlog
from torch import Tensor

from lepton_p2p.errors import Dropped, IntegrityError, RoundRejected, SchemaMismatch, StateLost
from lepton_p2p.identity import PeerId, short
from lepton_p2p.rounds.result import RoundResult
from lepton_p2p.training.catch_up import CatchUp
from lepton_p2p.training.collective import Collective, StateSource, Withdrawn
from lepton_p2p.training.notes import Note, NoteFlag
from lepton_p2p.training.ranges import Range
from lepton_p2p.training.replica import Replica
from lepton_p2p.training.store import SnapshotStore

MAX_REJECTIONS = 3
"""Rounds in a row without a result, with nothing changed in between: the next one will not have one either."""

PATIENCE = 3
"""Failed fetches in a row after which those that are done no longer wait for a newcomer."""

log = structlog.get_logger()

Notes = Mapping[PeerId, Note | None]


class Lockstep:
    """A peer is *entering* (holds nothing, wants the state), *catching up* (fetches it) or *established*.

    ``seen``: how many rounds the swarm has done, if this peer took part in all of them; only asked while it is fresh.
    """

    def __init__(
        self,
        replica: Replica,
        *,
        collective: Collective,
        state_source: StateSource,
        store: SnapshotStore,
        seen: Callable[[], int | None],
    ) -> None:
        self.established = False
        """Whether the replica holds the swarm's state."""
        self.all_ready = False
        """Whether all members of the last round did, so that nobody needs more rounds to catch up."""
        self.founded = False
        """Whether what it holds goes back to what it held itself, and was not fetched from others."""
        self._replica = replica
        self._collective, self._source, self._store = collective, state_source, store
        self._seen = seen
        self._catching: CatchUp | None = None
        self._fresh = True
        self._rejections = 0
        self._failures = 0

    @property
    def rejections(self) -> int:
        """Rounds in a row that had no result."""
        return self._rejections

    def catch_up(self) -> None:
        """Become established if the state has arrived: restore and replay.  Call it before filling the tensors."""
        catching = self._catching
        if catching is None or not catching.done:
            return
        try:
            catching.finish(self._replica.restore, lambda kept: self._apply(kept.result, kept.tensors))
            self.established, self.founded = True, False
            self._failures = 0
            log.info("caught up", rounds=len(catching.kept))
        except (StateLost, IntegrityError) as error:
            self._failures += 1
            log.warning("the state could not be fetched; asking for a newer one", reason=str(error))
        finally:
            catching.close()
            self._catching = None

    def round(self, claim: Sequence[Range] = (), *, loss_sum: float = 0.0, weight: float = 0.0) -> RoundResult | None:
        """One round with what the replica's tensors hold, applied; ``weight`` counts once this peer is established.

        None: nothing was applied, since the members agreed on no result (still established: the tensors are what they
        were) or the swarm went on without this peer (no longer established).  Raises ``RoundRejected`` and
        ``SchemaMismatch`` when that happens again and again, ``StateLost``, ``Closed``, ``Withdrawn``.
        """
        try:
            result = self._collective.all_reduce(
                self._replica.tensors,
                op="mean",
                weight=weight if self.established else 0.0,
                note=self._note(claim, loss_sum).encode(),
                state_digest=self._replica.digest() if self.established else 0,
            )
        except Dropped as dropped:
            log.warning("dropped by the swarm; entering again", reason=str(dropped))
            self.enter_again()
            return None
        except Withdrawn:
            self.step_out()
            raise
        except (RoundRejected, SchemaMismatch) as rejected:
            self._rejections += 1
            # Whose model is another one finds out at once and goes; those that hold the state let it go.
            hopeless = isinstance(rejected, SchemaMismatch) and not self.established
            if hopeless or self._rejections >= MAX_REJECTIONS:
                raise
            return None
        self._take(result)
        self._rejections = 0
        return result

    def enter_again(self) -> None:
        """What the replica holds is obsolete: ask for the state in the next round."""
        self.close()
        self.established = self._fresh = self.all_ready = False
        self._rejections = 0

    def step_out(self) -> None:
        """This peer took its round back, and the others go on: what it holds is obsolete, unless nobody else is left.

        Then, in the first round of a new swarm, the training starts from what this peer holds.
        """
        fresh = self._fresh or self.established
        self.enter_again()
        self._fresh = fresh

    def close(self) -> None:
        """End the fetch and keep nothing for others; idempotent."""
        if self._catching is not None:
            self._catching.close()
            self._catching = None
        self._store.clear()

    def _note(self, claim: Sequence[Range], loss_sum: float) -> Note:
        if self.established:
            return Note(NoteFlag.READY, tuple(claim), loss_sum)
        if self._catching is not None:
            return Note(failures=self._failures)
        if not self._fresh:
            return Note(NoteFlag.WANTS_STATE, failures=self._failures)
        flags = NoteFlag.WANTS_STATE | NoteFlag.FRESH
        return Note(flags, failures=self._failures, seen=self._seen(), seed=self._replica.seed())

    def _take(self, result: RoundResult) -> None:
        notes = _read(result)
        founders = founders_of(result)
        ready = [peer for peer, note in notes.items() if note and NoteFlag.READY in note.flags]
        if self._collective.me in founders:
            self.established = self.founded = True
        if self.established:
            self._donate(result, notes, ready, founding=bool(founders))
            self._apply(result, self._replica.tensors)
        elif self._catching is not None:
            self._catching.kept.append(result, self._replica.tensors)
        elif not founders:
            self._start_catching_up(result, notes)
        # else: the founders' state is asked for in the next round, in which they already hold it.
        self._fresh = False
        hopeless = {peer for peer, note in notes.items() if note and note.failures >= PATIENCE}
        self.all_ready = set(result.members) <= hopeless.union(ready, founders)

    def _donate(self, result: RoundResult, notes: Notes, ready: Sequence[PeerId], *, founding: bool) -> None:
        """Keep the state from before this round for those that want it, until they have it or are gone."""
        asked = {peer for peer, note in notes.items() if note and NoteFlag.WANTS_STATE in note.flags}
        wanting = set() if founding else (asked | set(result.newcomers)) - set(ready)
        self._store.settle(members=result.members, done=[*ready, *wanting])
        if wanting:
            self._store.hold(self._replica.capture(result.round - 1), wanting)

    def _apply(self, result: RoundResult, tensors: Sequence[Tensor]) -> None:
        before = self._replica.cursor
        after = before.advance(
            members=result.members,
            contributors=result.contributors,
            refused=result.refused,
            notes=result.notes,
            founders=founders_of(result),
        )
        self._replica.apply(tensors, after)
        if after.pass_number > before.pass_number and before.samples - before.used == after.samples:
            raise RoundRejected(
                f"not one sample of pass {before.pass_number + 1} gave finite numbers: the training has diverged; "
                "lower the learning rate"
            )

    def _start_catching_up(self, result: RoundResult, notes: Notes) -> None:
        if all(note and NoteFlag.WANTS_STATE in note.flags for note in notes.values()):
            raise StateLost(
                "all members that held the training state are gone and none of the others had all of it: "
                "start the swarm again, with the job or from a checkpoint"
            )
        base = result.round - 1
        log.info("fetching the state", round=base, members=[short(peer) for peer in result.members])
        self._catching = CatchUp(self._source, self._replica.schema, base, self._replica.tensors)
        self._catching.kept.append(result, self._replica.tensors)


def founders_of(result: RoundResult) -> Collection[PeerId]:
    """Whose state the training starts from, if ``result`` is its first round; nobody otherwise.

    It is, if nobody has ever seen a round of this training and somebody knows that there was none: otherwise those
    that held the state may just have died.  The first member's state counts, and who holds the same founds too.
    """
    notes = _read(result)
    fresh = [note for note in notes.values() if note is not None and NoteFlag.FRESH in note.flags]
    known = any(note.seen is not None and note.seen + 1 == result.round for note in fresh)
    if len(fresh) < len(result.members) or not known:
        return ()
    first = notes[result.members[0]]
    assert first is not None  # all are fresh
    return frozenset(peer for peer, note in notes.items() if note is not None and note.seed == first.seed)


def _read(result: RoundResult) -> Notes:
    return {peer: Note.read(data) for peer, data in result.notes.items()}
