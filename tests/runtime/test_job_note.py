"""The last job on disk: what was saved is read, and nothing else is taken for a job."""

from __future__ import annotations

from pathlib import Path

import pytest
import structlog

from lepton_p2p.jobs import job_from_table
from lepton_p2p.runtime.job_note import JobNote

TABLE = {
    "model": {"name": "linear", "inputs": 8},
    "data": {"name": "synthetic_linear", "samples": 8},
    "optimizer": {"name": "sgd", "lr": 0.1},
    "schedule": {"steps": 2},
}


def test_what_was_saved_is_there_for_the_next_process(tmp_path: Path) -> None:
    assert JobNote(tmp_path).load() is None
    job = job_from_table(TABLE)
    JobNote(tmp_path).save(job)
    assert JobNote(tmp_path).load() == job
    assert [path.name for path in tmp_path.iterdir()] == ["job.json"]


def test_a_job_with_a_python_file_is_not_kept_since_every_peer_must_name_its_own_copy(tmp_path: Path) -> None:
    JobNote(tmp_path).save(job_from_table(TABLE))
    file = {"file": "train.py", "file_digest": "0" * 64, "schedule": {"steps": 2}}
    JobNote(tmp_path).save(job_from_table(file))
    assert JobNote(tmp_path).load() is None


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"name": 1}'])
def test_what_is_no_job_costs_a_warning(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "job.json").write_bytes(content)
    with structlog.testing.capture_logs() as logs:
        assert JobNote(tmp_path).load() is None
    assert [entry["log_level"] for entry in logs] == ["warning"]


def test_a_disk_that_takes_nothing_costs_a_warning(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as logs:
        JobNote(tmp_path / "missing").save(job_from_table(TABLE))
    assert [entry["event"] for entry in logs] == ["the job could not be saved"]
