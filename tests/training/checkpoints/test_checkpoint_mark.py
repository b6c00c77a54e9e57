"""The note of how far a training had come: read only if it is whole and of the same job."""

from __future__ import annotations

import os
from pathlib import Path

import structlog
from checkpoint_samples import JOB, place
from hypothesis import given
from hypothesis import strategies as st

from lepton_p2p.training.checkpoints import Mark, MarkFile

counts = st.integers(0, 2**63)
jobs = st.sampled_from(["", JOB, "cd" * 32])
marks = st.builds(Mark, jobs, counts, counts, counts, st.floats(0, 1e12))


@given(marks)
def test_a_mark_is_read_as_it_was_written(mark: Mark) -> None:
    assert Mark.decode(mark.encode(), mark.job) == mark


@given(marks, st.integers(0, 8 * 56 - 1), jobs)
def test_a_flipped_bit_a_cut_and_another_job_give_none(mark: Mark, bit: int, job: str) -> None:
    data = bytearray(mark.encode())
    assert Mark.decode(bytes(data[: bit // 8]), mark.job) is None
    assert job == mark.job or Mark.decode(bytes(data), job) is None
    data[bit // 8] ^= 1 << bit % 8
    assert Mark.decode(bytes(data), mark.job) is None


def test_the_last_place_is_there_for_the_next_process(tmp_path: Path) -> None:
    file = MarkFile(tmp_path, JOB)
    file.open()
    for step in range(5):
        file.set(place(step))
    # Not closed: a process that is killed closes nothing.
    left = MarkFile(tmp_path, JOB).read()
    assert left is not None
    assert (left.step, left.samples, left.work) == (4, 40, 8)
    assert MarkFile(tmp_path, "").read() is None
    file.close()


def test_a_disk_that_takes_nothing_costs_one_warning(tmp_path: Path) -> None:
    file = MarkFile(tmp_path / "missing", JOB)
    with structlog.testing.capture_logs() as logs:
        file.open()
        file.set(place(1))
    assert len(logs) == 1
    assert file.read() is None
    opened = MarkFile(tmp_path, JOB)
    opened.open()
    os.close(opened._handle)
    with structlog.testing.capture_logs() as logs:
        opened._handle = os.open("/dev/full", os.O_WRONLY)
        opened.set(place(1))
        opened.set(place(2))
    assert [entry["why"] for entry in logs] == ["No space left on device"]
