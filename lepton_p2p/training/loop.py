"""The training loop: runs a strategy in the calling thread, tells how it goes, and hands out snapshots."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from lepton_p2p.errors import Closed, IntegrityError, SchemaMismatch
from lepton_p2p.jobs import Job
from lepton_p2p.models import Built
from lepton_p2p.training.checkpoints import Upkeep
from lepton_p2p.training.collective import Collective, PairExchange, StateSource
from lepton_p2p.training.computing import computing
from lepton_p2p.training.evaluation import evaluate
from lepton_p2p.training.snapshots import Snapshot, capture
from lepton_p2p.training.state import digest_text, params_digest
from lepton_p2p.training.store import SnapshotStore
from lepton_p2p.training.strategies import Context, Report, make_strategy

Phase = Literal["joining", "training", "done", "stopped"]
LAST_SECONDS = 0.5
"""How long a peer that is told to stop waits for a checkpoint that is being written, to write a last one after it."""
RATE_WINDOW = 5.0
"""Seconds over which samples per second are averaged."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the training stands.

    phase: "joining" until this peer holds the swarm's state.  loss: mean of the last samples (None before the first).
    samples_per_second: of all samples that this peer has seen reported, over the last seconds.  metrics: of the last
    evaluation, and the strategy's own.  params_digest: of parameters and buffers at that evaluation, 16 hex digits (""
    before).  report: of the strategy's last unit of work.
    """

    phase: Phase
    step: int = 0
    pass_number: int = 0
    samples: int = 0
    loss: float | None = None
    samples_per_second: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    params_digest: str = ""
    report: Report | None = None


class Trainer:
    """Runs the job's strategy.  ``run`` and ``welcome`` block in the caller's thread; all else may be called from any.

    ``on_progress`` is called in the training thread after every step or round and must be quick.  ``store`` holds the
    snapshots that joiners fetch.  ``first_round``, ``founder``, ``quorum``: see ``Context``.  ``upkeep`` sees
    to checkpoints.
    """

    def __init__(
        self,
        job: Job,
        built: Built,
        *,
        collective: Collective,
        state_source: StateSource,
        exchange: PairExchange | None = None,
        store: SnapshotStore | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        first_round: int = 1,
        founder: bool = False,
        quorum: int = 1,
        upkeep: Upkeep | None = None,
    ) -> None:
        self.store = store or SnapshotStore()
        self._stop = threading.Event()
        self._built = built
        self._job = job
        self._strategy = make_strategy(
            Context(
                job, built, collective, state_source, exchange, self.store, self._stop, first_round, founder, quorum
            )
        )
        self._upkeep = upkeep or Upkeep()
        self._on_progress = on_progress or (lambda _: None)
        self._progress = Progress("joining")
        self._times: deque[tuple[float, int]] = deque()
        self._evaluated = -1
        self._round = 0
        self._lock = threading.RLock()
        self._idle = False
        self._wanted: list[Future[Snapshot]] = []

    @property
    def progress(self) -> Progress:
        """The last that was reported."""
        return self._progress

    def request_stop(self) -> None:
        """Let ``run`` return at the next boundary; a round that waits is ended by closing the collective."""
        self._stop.set()

    def snapshot_now(self) -> Future[Snapshot]:
        """The weights (parameters and buffers) at the next boundary at which this peer holds the swarm's state.

        Fails with ``Closed`` if the training ends without.
        """
        future: Future[Snapshot] = Future()
        with self._lock:
            self._wanted.append(future)
            if self._idle:  # and stays so while the lock is held: nothing may change the model meanwhile
                self._serve_snapshots()
                self._fail_snapshots()
        return future

    def run(self) -> Progress:
        """Train until the schedule is complete or a stop was requested; return where it stands.

        Raises what the strategy raises; the strategy's own threads have ended when this returns or raises.
        """
        try:
            self._resume()
            while not self._strategy.finished and not self._stop.is_set():
                self._after(self._strategy.advance())
            if self._stop.is_set():
                self._keep_last(patience=LAST_SECONDS)
                return self._tell(phase="stopped")
            self._after(self._strategy.finish(), last=True)
            self._keep_last(patience=None)
            return self._tell(phase="done")
        except Closed:
            # Closing the collective is how a round that waits is ended for a stop.
            if not self._stop.is_set():
                raise
            self._keep_last(patience=LAST_SECONDS)
            return self._tell(phase="stopped")
        finally:
            self._end()

    def welcome(self) -> Progress:
        """After ``run``: rounds that give the final state to peers that came late.  All members must call it."""
        with self._lock:
            self._idle = False
        try:
            report = self._strategy.welcome()
            while not self._strategy.finished and not self._stop.is_set():
                report = self._strategy.advance()
            self._after(report, last=True)
            return self._tell(phase="done")
        finally:
            self._end()

    def _resume(self) -> None:
        recalled = self._upkeep.recall()
        if recalled is None:
            return
        try:
            self._strategy.resume(recalled)
        except (SchemaMismatch, IntegrityError) as error:
            raise type(error)(f"the checkpoint does not fit the job, --resume never starts anew: {error}") from None
        self._upkeep.begin(self._strategy.place)

    def _keep(self) -> None:
        strategy = self._strategy
        if strategy.ready:
            self._upkeep.between_steps(strategy.place, strategy.capture, founded=strategy.founded)

    def _keep_last(self, *, patience: float | None) -> None:
        if self._strategy.ready:
            self._upkeep.end(self._strategy.place, self._strategy.capture, patience=patience)

    def _end(self) -> None:
        self._strategy.close()
        with self._lock:
            self._idle = True
        self._serve_snapshots()
        self._fail_snapshots()

    def _after(self, report: Report, *, last: bool = False) -> None:
        # Without rounds, the step tells one snapshot of the weights from another.
        self._round = report.result.round if report.result is not None else max(self._round, report.step)
        due = self._job.evaluate_every and report.step // self._job.evaluate_every != self._evaluated
        metrics, digest = self._progress.metrics, self._progress.params_digest
        if self._strategy.ready and (last or due):
            self._evaluated = report.step // self._job.evaluate_every if self._job.evaluate_every else 0
            with computing("the evaluation on the test set"):
                metrics = MappingProxyType(evaluate(self._strategy.model, self._built))
            digest = digest_text(params_digest(self._strategy.model))
        self._serve_snapshots()
        self._keep()
        self._tell(
            phase="training" if self._strategy.ready else "joining",
            report=report,
            rate=self._rate(report),
            metrics=MappingProxyType({**metrics, **report.metrics}) if report.metrics else metrics,
            digest=digest,
        )

    def _tell(
        self,
        *,
        phase: Phase,
        report: Report | None = None,
        rate: float | None = None,
        metrics: Mapping[str, float] | None = None,
        digest: str | None = None,
    ) -> Progress:
        last = self._progress
        report = report or last.report
        self._progress = Progress(
            phase=phase,
            step=report.step if report else 0,
            pass_number=report.pass_number if report else 0,
            samples=report.samples if report else 0,
            loss=report.loss if report and report.loss is not None else last.loss,
            samples_per_second=last.samples_per_second if rate is None else rate,
            metrics=last.metrics if metrics is None else metrics,
            params_digest=last.params_digest if digest is None else digest,
            report=report,
        )
        self._on_progress(self._progress)
        return self._progress

    def _rate(self, report: Report) -> float:
        now = time.monotonic()
        self._times.append((now, report.samples))
        while len(self._times) > 2 and now - self._times[0][0] > RATE_WINDOW:
            self._times.popleft()
        (then, before), elapsed = self._times[0], now - self._times[0][0]
        return max(0, report.samples - before) / elapsed if elapsed > 0 and then < now else 0.0

    def _capture(self) -> Snapshot:
        return capture(self._strategy.model, round=self._round)

    def _serve_snapshots(self) -> None:
        if not self._strategy.ready:
            return
        with self._lock:
            wanted, self._wanted = self._wanted, []
            snapshot = self._capture() if wanted else None
        for future in wanted:
            if snapshot is not None and future.set_running_or_notify_cancel():
                future.set_result(snapshot)

    def _fail_snapshots(self) -> None:
        with self._lock:
            wanted, self._wanted = self._wanted, []
        for future in wanted:
            if future.set_running_or_notify_cancel():
                future.set_exception(Closed("the training has ended and this peer has no weights"))
