"""A folder of checkpoints: each is a folder of its own that is there whole or not at all.

``checkpoint-00000042-step-1000/``: ``tensors.safetensors`` and ``manifest.json``.  It is made under a name that begins
with a dot, synced, renamed, and the folder above synced; what a crash leaves under such a name is nobody's, and goes
with the next write.  The number counts up over the life of the folder, so that the newest is known without a clock.
"""

from __future__ import annotations

import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import structlog

from lepton_p2p.errors import IntegrityError
from lepton_p2p.training.checkpoints.files import (
    UNFINISHED,
    read_record,
    read_snapshot,
    sync_folder,
    write_whole,
)
from lepton_p2p.training.checkpoints.record import Place, Record
from lepton_p2p.training.snapshots import Snapshot

_NAME = re.compile(r"checkpoint-([0-9]{8,18})-step-[0-9]+")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One that is there."""

    path: Path
    record: Record

    def load(self) -> Snapshot:
        """The state, every byte checked; :class:`IntegrityError` or ``OSError`` if it cannot be had."""
        return read_snapshot(self.path, self.record)


class Checkpoints:
    """Used by one thread at a time, of the one process that holds the lock on the state directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._damaged: set[Path] = set()

    def write(self, snapshot: Snapshot, place: Place, *, job: str, strategy: str, keep: int) -> Checkpoint:
        """Write one, then let go of what is older than the newest ``keep`` of ``job``.

        ``OSError``: it could not be written, and nothing has changed.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._sweep()
        number = max((_number(path) for path in self._names()), default=0) + 1
        path = self.folder / f"checkpoint-{number:08d}-step-{place.step}"
        record = write_whole(snapshot, place, path, job=job, strategy=strategy, now=time.time())
        try:
            self._prune(job, keep)
        except OSError as error:
            log.warning("an old checkpoint could not be removed", folder=str(self.folder), why=error.strerror)
        return Checkpoint(path, record)

    def newest(self, job: str) -> tuple[Checkpoint, Snapshot] | None:
        """The newest of ``job`` that is valid to the last byte.  One warning for each that is damaged."""
        for path in reversed(self._names()):
            try:
                record = read_record(path)
                if record.job == job:
                    return Checkpoint(path, record), read_snapshot(path, record)
            except (IntegrityError, OSError) as error:
                self._damaged.add(path)
                log.warning("a checkpoint is damaged; an older one is looked for", checkpoint=str(path), why=str(error))
        return None

    def _names(self) -> list[Path]:
        """All, the oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted((path for path in self.folder.iterdir() if _NAME.fullmatch(path.name)), key=_number)

    def _sweep(self) -> None:
        """Remove what a crash left half-written or half-removed."""
        for path in self.folder.iterdir():
            if path.name.startswith(UNFINISHED):
                shutil.rmtree(path)

    def _prune(self, job: str, keep: int) -> None:
        """Checkpoints of other jobs stay; damaged ones are not counted, and go with what is as old."""
        kept = 0
        for path in reversed(self._names()):
            try:
                record = read_record(path)
            except (IntegrityError, OSError):
                self._damaged.add(path)
                record = None
            if record is not None and record.job != job:
                continue
            if kept >= keep:
                self._remove(path)
            elif path not in self._damaged:
                kept += 1

    def _remove(self, path: Path) -> None:
        """First out of sight, so that a crash in the middle leaves no damaged checkpoint."""
        doomed = path.with_name(f"{UNFINISHED}{path.name}")
        path.rename(doomed)
        sync_folder(self.folder)
        shutil.rmtree(doomed)
        self._damaged.discard(path)


def open_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in ``path``; :class:`IntegrityError`, or ``OSError`` if there is none."""
    return Checkpoint(path, read_record(path))


def _number(path: Path) -> int:
    found = _NAME.fullmatch(path.name)
    return int(found[1]) if found is not None else 0
