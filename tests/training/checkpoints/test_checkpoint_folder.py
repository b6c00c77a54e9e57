"""A folder of checkpoints: which are kept, which one is the newest, and what damage costs."""

from __future__ import annotations

from pathlib import Path

import pytest
import structlog
from checkpoint_samples import JOB, place, snapshot

from lepton_p2p.errors import IntegrityError
from lepton_p2p.training.checkpoints import Checkpoint, Checkpoints
from lepton_p2p.training.checkpoints.files import MANIFEST, TENSORS
from lepton_p2p.training.checkpoints.folder import open_checkpoint

OTHER = "cd" * 32


def write(checkpoints: Checkpoints, step: int, *, job: str = JOB, keep: int = 3) -> Checkpoint:
    return checkpoints.write(snapshot(1), place(step), job=job, strategy="all_reduce", keep=keep)


def steps(checkpoints: Checkpoints) -> list[int]:
    return sorted(open_checkpoint(path).record.step for path in checkpoints.folder.iterdir())


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def newest_step(folder: Path) -> int | None:
    found = Checkpoints(folder).newest(JOB)
    return None if found is None else found[0].record.step


def test_an_empty_and_a_missing_folder_hold_nothing(tmp_path: Path) -> None:
    assert newest_step(tmp_path) is None
    assert newest_step(tmp_path / "missing") is None


def test_the_newest_of_the_job_are_kept_and_those_of_other_jobs_are_left_alone(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    write(checkpoints, 1, job=OTHER)
    for step in range(2, 7):
        write(checkpoints, step)
    assert steps(checkpoints) == [1, 4, 5, 6]
    assert newest_step(tmp_path) == 6


def test_the_newest_is_the_one_written_last_also_after_a_new_start_with_fewer_steps(tmp_path: Path) -> None:
    write(Checkpoints(tmp_path), 900)
    write(Checkpoints(tmp_path), 20)
    assert newest_step(tmp_path) == 20


@pytest.mark.parametrize("name", [TENSORS, MANIFEST])
def test_a_damaged_newest_costs_one_warning_and_the_one_before_is_taken(tmp_path: Path, name: str) -> None:
    write(Checkpoints(tmp_path), 1)
    flip(write(Checkpoints(tmp_path), 2).path / name)
    with structlog.testing.capture_logs() as logs:
        assert newest_step(tmp_path) == 1
    assert [entry["event"] for entry in logs] == ["a checkpoint is damaged; an older one is looked for"]


def test_a_damaged_one_is_not_counted_as_kept_and_goes_when_enough_newer_ones_are_there(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    write(checkpoints, 1)
    flip(write(checkpoints, 2).path / TENSORS)
    assert checkpoints.newest(JOB) is not None
    write(checkpoints, 3, keep=2)
    assert steps(checkpoints) == [1, 2, 3], "one and three are the two that can be trusted"
    write(checkpoints, 4, keep=2)
    assert steps(checkpoints) == [3, 4]


def test_a_checkpoint_without_a_readable_manifest_is_not_counted_either(tmp_path: Path) -> None:
    write(Checkpoints(tmp_path), 1)
    broken = write(Checkpoints(tmp_path), 2)
    flip(broken.path / MANIFEST)
    write(Checkpoints(tmp_path), 3, keep=2)
    assert {path.name.rpartition("-")[2] for path in tmp_path.iterdir()} == {"1", "2", "3"}


def test_files_of_others_are_neither_read_nor_removed(tmp_path: Path) -> None:
    for name in ("notes.txt", "checkpoint-1-step-2", "checkpoint-00000001-step-2.bak"):
        (tmp_path / name).mkdir()
    write(Checkpoints(tmp_path), 5, keep=1)
    write(Checkpoints(tmp_path), 6, keep=1)
    assert sum(path.is_dir() for path in tmp_path.iterdir()) == 4
    assert newest_step(tmp_path) == 6


def test_a_path_without_a_checkpoint_is_an_error_of_the_system_or_of_integrity(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_checkpoint(tmp_path / "nowhere")
    whole = write(Checkpoints(tmp_path), 5)
    flip(whole.path / MANIFEST)
    with pytest.raises(IntegrityError):
        open_checkpoint(whole.path)
