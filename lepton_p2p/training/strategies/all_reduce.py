"""Synchronous data parallel: one atomic round per step, replicas bit-identical.

Every decision here depends on replicated values only (cursor, result, notes), so all members take the same one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import structlog
from torch import Tensor, nn

from lepton_p2p.errors import Dropped, IntegrityError, RoundRejected, StateLost
from lepton_p2p.identity import PeerId, short
from lepton_p2p.rounds.result import RoundResult
from lepton_p2p.training.catch_up import CatchUp, Kept
from lepton_p2p.training.notes import Note, NoteFlag
from lepton_p2p.training.ranges import size_of
from lepton_p2p.training.replica import Replica
from lepton_p2p.training.sampler import Cursor
from lepton_p2p.training.schedule import complete
from lepton_p2p.training.strategies.base import Context, Report, Strategy, strategy

MAX_REJECTIONS = 3
"""Rounds in a row without a result, with nothing changed in between: the next one will not have one either."""

PATIENCE = 3
"""Failed fetches in a row after which those that are done no longer wait for a newcomer."""

log = structlog.get_logger()


@strategy("all_reduce")
class AllReduce(Strategy):
    """Gradients are averaged with the number of samples as weight: equal to one process on the summed batch.

    A peer is *entering* (holds nothing, wants the state), *catching up* (fetches it) or *established*.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._replica = Replica(context.job, context.built)
        self._established = False
        self._catching: CatchUp | None = None
        self._fresh = True
        self._rejections = 0
        self._failures = 0
        self._all_ready = False

    @property
    def model(self) -> nn.Module:
        return self._replica.model

    @property
    def ready(self) -> bool:
        return self._established

    @property
    def cursor(self) -> Cursor:
        """The replicated data cursor."""
        return self._replica.cursor

    @property
    def _complete(self) -> bool:
        cursor = self._replica.cursor
        return complete(self._context.job.schedule, step=cursor.step, passes=cursor.pass_number)

    @property
    def finished(self) -> bool:
        """The schedule is complete and no member is still catching up, which it could only do while rounds go on."""
        return self._established and self._complete and self._all_ready

    def advance(self) -> Report:
        self._end_catching_up()
        before = self._replica.cursor
        note = self._contribute()
        try:
            result = self._context.collective.all_reduce(
                self._replica.tensors,
                op="mean",
                weight=float(size_of(note.claim)),
                note=note.encode(),
                state_digest=self._replica.digest() if self._established else 0,
            )
        except Dropped as dropped:
            log.warning("dropped by the swarm; entering again", reason=str(dropped))
            self._enter_again()
            return self._report(before, None)
        except RoundRejected:
            self._rejections += 1
            if self._rejections >= MAX_REJECTIONS:
                raise
            return self._report(before, None)
        self._take(result)
        self._rejections = 0
        return self._report(before, result)

    def finish(self) -> Report:
        return self._report(self._replica.cursor, None)

    def welcome(self) -> Report:
        self._all_ready = False
        return self.advance()

    def close(self) -> None:
        if self._catching is not None:
            self._catching.close()
            self._catching = None
        self._context.store.clear()

    def _contribute(self) -> Note:
        """Fill the tensors and say what they are made of."""
        if not self._established:
            self._replica.contribute(())
            fresh = NoteFlag.FRESH if self._fresh else NoteFlag.NONE
            flags = NoteFlag.NONE if self._catching else NoteFlag.WANTS_STATE | fresh
            return Note(flags, failures=self._failures)
        cursor = self._replica.cursor
        claim = () if self._complete else cursor.plan().get(self._context.collective.me, ())
        return Note(NoteFlag.READY, claim, self._replica.contribute(claim))

    def _take(self, result: RoundResult) -> None:
        notes = {peer: Note.read(data) for peer, data in result.notes.items()}
        founding = self._is_founding(result, notes)
        ready = [peer for peer, note in notes.items() if note and NoteFlag.READY in note.flags]
        if founding:
            self._established = True
        if self._established:
            self._donate(result, notes, ready, founding)
            self._apply(result, self._replica.tensors, founding=founding)
        elif self._catching is not None:
            self._catching.kept.append(result, self._replica.tensors)
        else:
            self._start_catching_up(result, notes)
        self._fresh = False
        hopeless = {peer for peer, note in notes.items() if note and note.failures >= PATIENCE}
        self._all_ready = founding or set(result.members) <= hopeless.union(ready)

    def _is_founding(self, result: RoundResult, notes: Mapping[PeerId, Note | None]) -> bool:
        """The lineage's very first round, of peers that all start from the seeded state."""
        first = result.round == self._context.first_round + self._rejections
        return first and self._fresh and all(note and NoteFlag.FRESH in note.flags for note in notes.values())

    def _donate(
        self, result: RoundResult, notes: Mapping[PeerId, Note | None], ready: Sequence[PeerId], founding: bool
    ) -> None:
        """Keep the state from before this round for those that want it, until they have it or are gone."""
        store = self._context.store
        asked = {peer for peer, note in notes.items() if note and NoteFlag.WANTS_STATE in note.flags}
        wanting = set() if founding else (asked | set(result.newcomers)) - set(ready)
        store.settle(members=result.members, done=[*ready, *wanting])
        if wanting:
            store.hold(self._replica.capture(result.round - 1), wanting)

    def _apply(self, result: RoundResult, tensors: Sequence[Tensor], *, founding: bool = False) -> None:
        before = self._replica.cursor
        after = before.advance(
            members=result.members,
            contributors=result.contributors,
            refused=result.refused,
            notes=result.notes,
            founding=founding,
        )
        self._replica.apply(tensors, after)
        if after.pass_number > before.pass_number and before.samples - before.used == after.samples:
            raise RoundRejected(
                f"not one sample of pass {before.pass_number + 1} gave finite numbers: the training has diverged; "
                "lower the learning rate"
            )

    def _start_catching_up(self, result: RoundResult, notes: Mapping[PeerId, Note | None]) -> None:
        if all(note and NoteFlag.WANTS_STATE in note.flags for note in notes.values()):
            raise StateLost(
                "all members that held the training state are gone and none of the others had all of it: "
                "start the swarm again with --job"
            )
        base = result.round - 1
        log.info("fetching the state", round=base, members=[short(peer) for peer in result.members])
        self._catching = CatchUp(self._context.state_source, self._replica.schema, base, self._replica.tensors)
        self._catching.kept.append(result, self._replica.tensors)

    def _end_catching_up(self) -> None:
        catching = self._catching
        if catching is None or not catching.done:
            return
        try:
            catching.finish(self._replica.restore, self._replay)
            self._established = True
            self._failures = 0
            log.info("caught up", rounds=len(catching.kept))
        except (StateLost, IntegrityError) as error:
            self._failures += 1
            log.warning("the state could not be fetched; asking for a newer one", reason=str(error))
        finally:
            catching.close()
            self._catching = None

    def _replay(self, kept: Kept) -> None:
        self._apply(kept.result, kept.tensors)

    def _enter_again(self) -> None:
        self.close()
        self._established = self._fresh = self._all_ready = False
        self._rejections = 0

    def _report(self, before: Cursor, result: RoundResult | None) -> Report:
        cursor = self._replica.cursor
        losses = [note for note in map(Note.read, _contributed(result)) if note is not None]
        count = sum(size_of(note.claim) for note in losses)
        return Report(
            step=cursor.step,
            pass_number=cursor.pass_number,
            samples=cursor.samples,
            new_samples=max(0, cursor.samples - before.samples) if result is not None else 0,
            loss=sum(note.loss_sum for note in losses) / count if count else None,
            skipped=cursor.skips,
            result=result,
        )


def _contributed(result: RoundResult | None) -> list[bytes]:
    return [] if result is None else [result.notes[peer] for peer in result.contributors if peer in result.notes]
