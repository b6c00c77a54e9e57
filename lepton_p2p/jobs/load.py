"""Reading jobs: TOML and JSON text, and Python files; everything wrong is told in one line."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from lepton_p2p.errors import JobError
from lepton_p2p.jobs.job import Job, Schedule
from lepton_p2p.models import file_digest, run_build
from lepton_p2p.models.registry import explain_detail, first_detail

MAX_TEXT = 64 * 1024
"""Characters of a job description; it is read before anything in it is trusted."""
FROM_BUILD = ("name", "seed", "schedule", "batch_size", "evaluate_every", "strategy")
"""What ``Built.settings`` of a Python file may set."""


def load_job(path: str | Path) -> Job:
    """The job in a ``.toml``, ``.json`` or ``.py`` file; :class:`JobError` in one line that starts with the path.

    A Python file is run: its ``build()`` says what to train and (in ``Built.settings``) how.
    """
    path = Path(path)
    if path.suffix == ".py":
        return _job_of_file(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return parse_job(text, source=str(path))


def parse_job(text: str, *, source: str = "job") -> Job:
    """The job in ``text``: JSON if it starts with ``{``, else TOML; ``source`` is where it came from, for messages."""
    if len(text) > MAX_TEXT:
        raise JobError(f"{source}: {len(text)} characters are too many for a job, at most {MAX_TEXT}")
    try:
        table = json.loads(text) if text.lstrip().startswith("{") else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise JobError(f"{source}: neither TOML nor JSON: {error}") from None
    return job_from_table(table, source=source)


def job_from_table(table: Mapping[str, Any], *, source: str = "job") -> Job:
    """Check a table that was read from somewhere."""
    try:
        return Job.model_validate(dict(table))
    except ValidationError as error:
        raise JobError(f"{source}: {_explain(error)}") from None


def _job_of_file(path: Path) -> Job:
    digest = file_digest(path)
    settings = dict(run_build(path, 0).settings)
    unknown = sorted(set(settings) - set(FROM_BUILD))
    if unknown:
        raise JobError(f"{path}: settings: unknown key {unknown[0]!r}; valid: {', '.join(FROM_BUILD)}")
    if "schedule" not in settings:
        raise JobError(
            f"{path}: settings: 'schedule' is required: Built(..., settings={{'schedule': {{'passes': 10}}}})"
        )
    return job_from_table({"name": path.stem, **settings, "file": path.name, "file_digest": digest}, source=str(path))


def _explain(error: ValidationError) -> str:
    detail = first_detail(error)
    context = detail.get("ctx", {})
    path = [str(part) for part in detail["loc"]]
    if detail["type"] == "option":
        path += [context["key"]] if context["key"] else []
        return f"{'.'.join(path)}: {context['text']}"
    key = ".".join(path)
    prefix = f"{key}: " if key else ""
    if detail["type"] == "value_error":
        return f"{prefix}{context['error']}"
    scope: type[BaseModel] = Schedule if path[0] == "schedule" and len(path) > 1 else Job
    return prefix + explain_detail(detail["type"], detail["msg"], detail["input"], key, scope.model_fields)
