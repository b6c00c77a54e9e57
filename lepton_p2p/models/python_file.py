"""Jobs that are Python files: the user's own ``build()``, run from a local file that the user named."""

from __future__ import annotations

import hashlib
import runpy
from pathlib import Path

import torch

from lepton_p2p.errors import JobError
from lepton_p2p.models.built import Built


def file_digest(path: Path) -> str:
    """SHA-256 of the file's bytes, 64 hex digits; :class:`JobError` if it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise JobError(f"{path}: cannot be read: {error.strerror or error}") from None


def run_build(path: Path, seed: int) -> Built:
    """Run the file and call its ``build()`` with the global generator seeded by ``seed`` (and restored afterwards).

    :class:`JobError` in one line if there is no ``build``, it raises, or returns something else than a ``Built``.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            # A name of its own, not "__main__": the file's own command line must not start.
            build = runpy.run_path(str(path), run_name="lepton_job").get("build")
            if not callable(build):
                raise JobError(f"{path}: has no function build(); define one that returns lepton_p2p.Built(...)")
            built = build()
        except JobError:
            raise
        except Exception as error:
            where = _line_of(error, path)
            text = " ".join(str(error).split())
            raise JobError(f"{path}{where}: build() failed: {type(error).__name__}: {text}") from error
    if not isinstance(built, Built):
        raise JobError(f"{path}: build() returned {type(built).__name__}, not lepton_p2p.Built(...)")
    return built


def _line_of(error: BaseException, path: Path) -> str:
    line, trace = "", error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = f":{trace.tb_lineno}"
        trace = trace.tb_next
    return line
