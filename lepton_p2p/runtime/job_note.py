"""The job that was trained last, on disk: a peer that starts a swarm again needs nobody to submit it once more."""

from __future__ import annotations

import os
from pathlib import Path

import structlog

from lepton_p2p.errors import JobError
from lepton_p2p.jobs import Job, parse_job

_LIMIT = 1 << 20
_log = structlog.get_logger(__name__)


class JobNote:
    """``job.json`` in the state directory.  Jobs with a Python file are not kept: every peer must name its own copy."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "job.json"

    def load(self) -> Job | None:
        """None (and a warning) if it cannot be understood."""
        try:
            with self._file.open("rb") as file:
                return parse_job(file.read(_LIMIT).decode(), source=str(self._file))
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError, JobError) as error:
            _log.warning("the last job cannot be read and is ignored", file=str(self._file), why=str(error))
            return None

    def save(self, job: Job) -> None:
        """Whole or not at all."""
        temporary = self._file.with_suffix(".new")
        try:
            if job.file is not None:
                self._file.unlink(missing_ok=True)
                return
            with temporary.open("w", encoding="utf-8") as file:
                file.write(job.to_json())
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._file)
        except OSError as error:
            _log.warning("the job could not be saved", file=str(self._file), why=error.strerror)
