"""How far the training had come when the process died: one small record that is overwritten after every step.

It costs one ``pwrite`` of 60 bytes (some microseconds).  A killed process leaves the last one behind, since the kernel
has it; after a power cut it may be some seconds old, or torn, and then its checksum tells.
"""

from __future__ import annotations

import os
import struct
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import structlog

from lepton_p2p.training.checkpoints.record import Place

_BODY = struct.Struct("!4s16sQQQd")
_CHECK = struct.Struct("!I")
_MAGIC = b"LpM1"
NAME = "progress"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Mark:
    """``step``, ``samples`` and ``work`` as in ``Place``; ``time``: seconds since 1970.  ``job``: digest, or empty."""

    job: str
    step: int
    samples: int
    work: int
    time: float

    def encode(self) -> bytes:
        """56 bytes; of the job's digest the first 16."""
        body = _BODY.pack(_MAGIC, _key(self.job), self.step, self.samples, self.work, self.time)
        return body + _CHECK.pack(zlib.crc32(body))

    @classmethod
    def decode(cls, data: bytes, job: str) -> Mark | None:
        """The mark of ``job`` in ``data``; None for that of another job, and for anything else."""
        if len(data) != _BODY.size + _CHECK.size or _CHECK.unpack(data[_BODY.size :]) != (zlib.crc32(data[:-4]),):
            return None
        magic, key, step, samples, work, when = _BODY.unpack(data[: _BODY.size])
        return cls(job, step, samples, work, when) if (magic, key) == (_MAGIC, _key(job)) else None


class MarkFile:
    """The file ``progress`` of one state directory.  A disk that takes nothing costs one warning."""

    def __init__(self, folder: Path, job: str) -> None:
        self._path, self._job = folder / NAME, job
        self._handle = -1

    def read(self) -> Mark | None:
        """What the last process left, if it trained this job."""
        try:
            return Mark.decode(self._path.read_bytes(), self._job)
        except OSError:
            return None

    def open(self) -> None:
        """Before ``set``; what ``read`` gives is overwritten from then on."""
        try:
            self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Idempotent."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def set(self, place: Place) -> None:
        """The training has come to ``place``."""
        if self._handle < 0:
            return
        try:
            os.pwrite(self._handle, Mark(self._job, place.step, place.samples, place.work, time.time()).encode(), 0)
        except OSError as error:
            self.close()
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        why = error.strerror
        log.warning("progress cannot be noted; what a crash costs will not be known", file=str(self._path), why=why)


def _key(job: str) -> bytes:
    return bytes.fromhex(job)[:16].ljust(16, b"\0")
