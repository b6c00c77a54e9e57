"""Writes checkpoints beside the training: one at a time, in a thread, from a copy of the state.

A slow disk delays the next checkpoint and never the training; a full or broken one is told once, and tried again when
the next one is due.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from lepton_p2p.durability import Interval
from lepton_p2p.training.checkpoints.folder import Checkpoints
from lepton_p2p.training.checkpoints.mark import MarkFile
from lepton_p2p.training.checkpoints.record import Place
from lepton_p2p.training.snapshots import Snapshot

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Written:
    """The last checkpoint: ``step``, when (seconds since 1970), ``seconds`` that writing took, ``size`` in bytes;
    ``failures``: how many could not be written since.  ``step`` is -1 while there is none.
    """

    step: int = -1
    time: float = 0.0
    seconds: float = 0.0
    size: int = 0
    failures: int = 0


class Keeper:
    """``due``, ``take`` and ``noted`` are called by the training thread, between two steps; the rest by any.

    on_written: called in the writing thread after each checkpoint.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        mark: MarkFile,
        *,
        job: str,
        strategy: str,
        every: Interval,
        keep: int,
        on_written: Callable[[Written], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._checkpoints, self._mark = checkpoints, mark
        self._job, self._strategy, self._every, self._keep = job, strategy, every, keep
        self._on_written, self._clock = on_written, clock
        self._thread: threading.Thread | None = None
        self._last = Written()
        self._taken: Place | None = None
        self._due_at = clock() + (every.seconds or 0.0)

    @property
    def last(self) -> Written:
        """The last checkpoint that this process has written."""
        return self._last

    def begin(self, place: Place) -> None:
        """The training goes on from a checkpoint of ``place``: there is no need for another one of it."""
        self._taken = place

    def noted(self, place: Place) -> None:
        """The training has come to ``place``: that is what is lost if all peers die before the next checkpoint."""
        self._mark.set(place)

    def due(self, place: Place) -> bool:
        """Whether it is time for a checkpoint, and the one before is written."""
        if self._thread is not None and self._thread.is_alive():
            return False
        if self._every.steps is None:
            return place != self._taken and self._clock() >= self._due_at
        # Multiples of the interval, so that all members write the same ones; a place that went back counts again.
        before = self._taken.step if self._taken is not None else 0
        return place.step // self._every.steps != before // self._every.steps

    def take(self, snapshot: Snapshot, place: Place) -> None:
        """Write ``snapshot``, which nobody changes any more; waits while another one is being written."""
        self._join(None)
        self._taken = place
        self._due_at = self._clock() + (self._every.seconds or 0.0)
        self._thread = threading.Thread(target=self._write, args=(snapshot, place), name="checkpoint", daemon=True)
        self._thread.start()

    def take_last(self, capture: Callable[[], Snapshot], place: Place, *, patience: float | None) -> None:
        """At the end of the training: one more, unless the last one was of this place.

        Waits up to ``patience`` seconds (None: as long as it takes) for one that is being written.
        """
        if self._join(patience) and (place != self._taken or self._last.failures):
            self.take(capture(), place)

    def close(self, patience: float) -> None:
        """Wait up to ``patience`` seconds for what is being written; what is not done then, nobody will ever see."""
        if not self._join(patience):
            log.warning("a checkpoint was not finished in time; the one before it stays the last", step=self._last.step)
        self._mark.close()

    def _join(self, patience: float | None) -> bool:
        """Whether nothing is being written (any more)."""
        if self._thread is not None:
            self._thread.join(patience)
            return not self._thread.is_alive()
        return True

    def _write(self, snapshot: Snapshot, place: Place) -> None:
        start = self._clock()
        try:
            written = self._checkpoints.write(snapshot, place, job=self._job, strategy=self._strategy, keep=self._keep)
        except OSError as error:
            self._failed(error.strerror or str(error))
            return
        if self._last.failures:
            log.warning("checkpoints can be written again", step=place.step)
        self._last = Written(place.step, time.time(), self._clock() - start, written.record.size)
        self._on_written(self._last)

    def _failed(self, why: str) -> None:
        if not self._last.failures:
            log.warning(
                "a checkpoint could not be written; the training goes on, older checkpoints stay: make room or mend "
                "the disk, it is tried again",
                folder=str(self._checkpoints.folder),
                why=why,
            )
        self._last = replace(self._last, failures=self._last.failures + 1)
