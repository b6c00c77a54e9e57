"""A peer's checkpoints: which one it goes on from, who writes new ones, and what is told about both."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import structlog

from lepton_p2p.errors import ConfigError, IntegrityError, JobMismatch
from lepton_p2p.jobs import Job
from lepton_p2p.runtime.bridge import Bridge
from lepton_p2p.runtime.job_note import JobNote
from lepton_p2p.runtime.node import Node
from lepton_p2p.training.checkpoints import Checkpoint, Checkpoints, Keeper, Mark, MarkFile, Upkeep, Written
from lepton_p2p.training.checkpoints.folder import open_checkpoint
from lepton_p2p.training.snapshots import Snapshot
from lepton_p2p.transport.values import CheckpointInfo

FOLDER = "checkpoints"
_log = structlog.get_logger(__name__)


class Durable:
    """``recall`` before the peer takes part, then ``upkeep`` for its training (from any thread), at last ``aclose``."""

    def __init__(self, node: Node, bridge: Bridge) -> None:
        self._node, self._bridge = node, bridge
        self._options = node.options.durability
        self._folder = node.options.state_dir
        self._recalled: Snapshot | None = None
        self._checkpoint: Checkpoint | None = None
        self._mark: Mark | None = None
        self._keeper: Keeper | None = None

    @property
    def info(self) -> CheckpointInfo | None:
        """The last checkpoint that this peer wrote, or else the one that it recalled."""
        last = self._keeper.last if self._keeper is not None else Written()
        if last.step >= 0:
            return CheckpointInfo(last.step, max(0.0, time.time() - last.time), last.seconds, last.size, last.failures)
        if self._checkpoint is not None:
            record = self._checkpoint.record
            age = max(0.0, time.time() - record.written)
            return CheckpointInfo(record.step, age, 0.0, record.size, last.failures)
        return CheckpointInfo(failures=last.failures) if last.failures else None

    async def last_job(self) -> Job | None:
        """What this peer trained when it died, to go on with it if nobody says anything else."""
        if self._folder is None or self._options.resume != "auto":
            return None
        return await asyncio.to_thread(JobNote(self._folder).load)

    async def note_job(self, job: Job) -> None:
        """For ``last_job``."""
        if self._folder is not None and self._options.every is not None:
            await asyncio.to_thread(JobNote(self._folder).save, job)

    async def recall(self, job: str) -> None:
        """Find the checkpoint of ``job`` to go on from, every byte checked, and let the agreement know what it holds.

        :class:`ConfigError`, :class:`JobMismatch` and :class:`IntegrityError` for one that was named and cannot be
        used; what the state directory holds costs a warning at most.
        """
        if self._options.resume == "never" or (self._folder is None and self._options.resume == "auto"):
            return
        found = await asyncio.to_thread(self._find, job)
        if found is None:
            return
        self._checkpoint, self._recalled = found
        record = self._checkpoint.record
        self._node.agreement.held = record.work
        _log.info("a checkpoint is there", checkpoint=str(self._checkpoint.path), step=record.step)

    def upkeep(self, job: str, strategy: str) -> Upkeep:
        """For the training of ``job``; what was recalled is given out once."""
        recalled, self._recalled = self._recalled, None
        if self._keeper is not None:
            self._keeper.close(0.0)
        if self._folder is not None and self._options.every is not None:
            mark = MarkFile(self._folder, job)
            mark.open()
            self._keeper = Keeper(
                Checkpoints(self._folder / FOLDER),
                mark,
                job=job,
                strategy=strategy,
                every=self._options.every,
                keep=self._options.keep,
                on_written=lambda written: self._bridge.post(self._tell_written, written),
            )
        return Upkeep(self._keeper, recalled, lambda: self._bridge.post(self._tell_resumed))

    async def aclose(self, patience: float) -> None:
        """Wait up to ``patience`` seconds for what is being written."""
        if self._keeper is not None:
            await asyncio.to_thread(self._keeper.close, patience)

    def _find(self, job: str) -> tuple[Checkpoint, Snapshot] | None:
        if self._folder is not None:
            self._mark = MarkFile(self._folder, job).read()
        if isinstance(self._options.resume, Path):
            return _named(self._options.resume, job)
        assert self._folder is not None  # looked at by the caller
        return Checkpoints(self._folder / FOLDER).newest(job)

    # -- what is told --------------------------------------------------------------------------------

    def _tell_written(self, written: Written) -> None:
        values = {"step": float(written.step), "seconds": written.seconds, "bytes": float(written.size)}
        self._node.events.publish("checkpoint", f"checkpoint of step {written.step} written", values=values)

    def _tell_resumed(self) -> None:
        """The training starts from the checkpoint: say from where, and what that costs."""
        assert self._checkpoint is not None
        record, mark = self._checkpoint.record, self._mark
        told = {"step": record.step, "samples": record.samples, "checkpoint": str(self._checkpoint.path)}
        values = {"step": float(record.step)}
        if mark is None or mark.step < record.step:
            lost = "it is not known what was done after it"
            _log.warning(f"the training goes on from a checkpoint; {lost}", **told)
        else:
            lost_steps, lost_samples = mark.step - record.step, max(0, mark.samples - record.samples)
            tell = _log.warning if lost_steps else _log.info
            tell("the training goes on from a checkpoint", **told, lost_steps=lost_steps, lost_samples=lost_samples)
            lost = f"{lost_steps} steps and {lost_samples} samples are lost"
            values |= {"lost_steps": float(lost_steps), "lost_samples": float(lost_samples)}
        self._node.events.publish("resumed", f"from a checkpoint of step {record.step}; {lost}", values=values)


def _named(path: Path, job: str) -> tuple[Checkpoint, Snapshot]:
    try:
        checkpoint = open_checkpoint(path)
        if checkpoint.record.job != job:
            theirs = checkpoint.record.job or "a program with a loop of its own"
            raise JobMismatch(
                f"--resume: the checkpoint {path} is of job {theirs}, this peer trains {job or 'a program'}"
            )
        return checkpoint, checkpoint.load()
    except OSError as error:
        raise ConfigError(f"--resume: there is no checkpoint at {path}: {error.strerror}") from None
    except IntegrityError as error:
        raise IntegrityError(f"--resume: the checkpoint {path} is damaged: {error}; take an older one") from None
