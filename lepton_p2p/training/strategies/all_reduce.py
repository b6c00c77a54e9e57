"""Synchronous data parallel: one atomic round per step, replicas bit-identical."""

from __future__ import annotations

from types import MappingProxyType

from torch import nn

from lepton_p2p.jobs.strategy_options import STRATEGIES, AllReduceOptions
from lepton_p2p.replication.cursor import Cursor
from lepton_p2p.replication.notes import Note
from lepton_p2p.replication.ranges import Range, size_of
from lepton_p2p.rounds.result import RoundResult
from lepton_p2p.training.checkpoints import Place, place_of
from lepton_p2p.training.job_replica import JobReplica
from lepton_p2p.training.lockstep import Lockstep
from lepton_p2p.training.schedule import complete
from lepton_p2p.training.snapshots import Snapshot
from lepton_p2p.training.strategies.base import Context, Report, Strategy, strategy

USED_TWICE = "samples_used_twice"
"""The metric that counts samples which both sides of a split have used; it is told once there are any."""


@strategy("all_reduce")
class AllReduce(Strategy):
    """Gradients are averaged with the number of samples as weight: equal to one process on the summed batch.

    With a robust aggregation every peer's gradient, the mean over its own batch, counts once; and so does the zero of
    one for whom nothing is left of a pass: those few that have the last samples are not to decide alone.
    """

    def __init__(self, context: Context) -> None:
        spec = context.job.strategy
        options = STRATEGIES.make(spec.name, spec.options)
        assert isinstance(options, AllReduceOptions)
        self._context, self._aggregation = context, options.aggregation
        self._replica = JobReplica(context.job, context.built, unites=options.aggregation is None)
        self._round = 0
        self._lockstep = Lockstep(
            self._replica,
            collective=context.collective,
            state_source=context.state_source,
            store=context.store,
            # All rounds before the job's first, and those of its own that had no result.
            seen=lambda: context.first_round - 1 + self._lockstep.rejections,
            quorum=context.quorum,
            aggregation=self._aggregation,
        )

    @property
    def model(self) -> nn.Module:
        return self._replica.model

    @property
    def ready(self) -> bool:
        return self._lockstep.established

    @property
    def cursor(self) -> Cursor:
        """The replicated data cursor."""
        return self._replica.cursor

    @property
    def place(self) -> Place:
        return place_of(self._replica.cursor)

    @property
    def founded(self) -> bool:
        return self._lockstep.founded

    def capture(self) -> Snapshot:
        return self._replica.capture(self._round)

    def resume(self, snapshot: Snapshot) -> None:
        self._replica.resume(snapshot)

    @property
    def _complete(self) -> bool:
        cursor = self._replica.cursor
        return complete(self._context.job.schedule, step=cursor.step, passes=cursor.pass_number)

    @property
    def finished(self) -> bool:
        """The schedule is complete and no member is still catching up, which it could only do while rounds go on."""
        return self._lockstep.established and self._complete and self._lockstep.all_ready

    def advance(self) -> Report:
        self._lockstep.catch_up()
        before = self._replica.cursor
        claim = self._claim()
        loss_sum = self._replica.contribute(claim)
        weight = float(size_of(claim) or self._says_zero())
        return self._report(before, self._lockstep.round(claim, loss_sum=loss_sum, weight=weight))

    def _claim(self) -> tuple[Range, ...]:
        if not self._lockstep.established or self._complete:
            return ()
        return self._replica.cursor.plan().get(self._context.collective.me, ())

    def _says_zero(self) -> bool:
        """Whether this peer, without a claim, contributes all the same."""
        return self._aggregation is not None and not self._complete and any(self._replica.cursor.plan().values())

    def finish(self) -> Report:
        return self._report(self._replica.cursor, None)

    def welcome(self) -> Report:
        self._lockstep.expect_newcomers()
        return self.advance()

    def close(self) -> None:
        self._lockstep.close()

    def _report(self, before: Cursor, result: RoundResult | None) -> Report:
        cursor = self._replica.cursor
        self._round = result.round if result is not None else self._round
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
            metrics=MappingProxyType({USED_TWICE: float(cursor.doubled)} if cursor.doubled else {}),
        )


def _contributed(result: RoundResult | None) -> list[bytes]:
    return [] if result is None else [result.notes[peer] for peer in result.contributors if peer in result.notes]
