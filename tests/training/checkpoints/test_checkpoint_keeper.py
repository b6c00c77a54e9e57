"""When checkpoints are due, and that neither a slow nor a full disk stops the training."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from checkpoint_samples import JOB, place, snapshot
from disks import fill, small_file_system

from lepton_p2p.durability import Interval
from lepton_p2p.training.checkpoints import Checkpoint, Checkpoints, Keeper, MarkFile, Written


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def keeper_of(checkpoints: Checkpoints, every: Interval, **more: Any) -> Keeper:
    mark = MarkFile(checkpoints.folder, JOB)
    return Keeper(checkpoints, mark, job=JOB, strategy="all_reduce", every=every, keep=3, **more)


class SlowDisk(Checkpoints):
    """Writes when it is told to."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.spins = threading.Event()

    def write(self, *args: Any, **more: Any) -> Checkpoint:
        assert self.spins.wait(30)
        return super().write(*args, **more)


def test_by_steps_a_checkpoint_is_due_at_every_multiple_whatever_was_skipped(tmp_path: Path) -> None:
    keeper = keeper_of(Checkpoints(tmp_path), Interval(steps=10))
    due = []
    for step in (1, 9, 10, 11, 19, 27, 29, 30):
        if keeper.due(place(step)):
            due.append(step)
            keeper.take(snapshot(1), place(step))
            keeper.close(30)
    assert due == [10, 27, 30]


def test_by_steps_a_training_that_goes_on_from_a_checkpoint_writes_the_same_ones_as_before(tmp_path: Path) -> None:
    keeper = keeper_of(Checkpoints(tmp_path), Interval(steps=10))
    keeper.begin(place(40))
    assert [step for step in range(40, 52) if keeper.due(place(step))] == [50, 51]


def test_by_seconds_a_checkpoint_is_due_when_they_have_passed_and_something_was_done(tmp_path: Path) -> None:
    clock = Clock()
    keeper = keeper_of(Checkpoints(tmp_path), Interval(seconds=60.0), clock=clock)
    keeper.begin(place(3))
    clock.now += 59
    assert not keeper.due(place(4))
    clock.now += 1
    assert not keeper.due(place(3)), "nothing new"
    assert keeper.due(place(4))


def test_while_the_disk_is_slow_no_other_checkpoint_is_due_and_nobody_waits(tmp_path: Path) -> None:
    disk, told = SlowDisk(tmp_path), list[Written]()
    keeper = keeper_of(disk, Interval(steps=1), on_written=told.append)
    keeper.take(snapshot(1), place(1))
    assert not keeper.due(place(2))
    assert keeper.last.step == -1
    disk.spins.set()
    keeper.close(30)
    assert keeper.due(place(2))
    assert [written.step for written in told] == [1]
    assert keeper.last.size > 0


def test_the_last_one_is_written_unless_it_is_there_or_there_is_no_time(tmp_path: Path) -> None:
    disk = SlowDisk(tmp_path)
    keeper = keeper_of(disk, Interval(steps=1))
    keeper.take(snapshot(1), place(1))
    keeper.take_last(lambda: snapshot(2), place(2), patience=0.0)
    disk.spins.set()
    keeper.close(30)
    assert keeper.last.step == 1, "the first was still being written"
    keeper.take_last(lambda: snapshot(2), place(2), patience=None)
    keeper.take_last(lambda: pytest.fail("it is there already"), place(2), patience=None)
    keeper.close(30)
    assert keeper.last.step == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with small_file_system(tmp_path / "disk", kib=256) as disk:
        yield disk


def test_a_full_disk_costs_one_warning_and_no_older_checkpoint_and_is_tried_again(small_disk: Path) -> None:
    checkpoints = Checkpoints(small_disk)
    keeper = keeper_of(checkpoints, Interval(steps=1))
    keeper.take(snapshot(1), place(1))
    keeper.close(30)
    fill(small_disk / "ballast")
    with structlog.testing.capture_logs() as logs:
        for step in (2, 3):
            assert keeper.due(place(step))
            keeper.take(snapshot(1, width=400), place(step))
            keeper.close(30)
    assert [entry["log_level"] for entry in logs] == ["warning"]
    assert "No space left" in logs[0]["why"]
    assert (keeper.last.step, keeper.last.failures) == (1, 2)
    newest = Checkpoints(small_disk).newest(JOB)
    assert newest is not None
    assert newest[0].record.step == 1
    assert not [path for path in small_disk.iterdir() if path.name.startswith(".")], "nothing half-written is left"
    (small_disk / "ballast").unlink()
    keeper.take(snapshot(1, width=400), place(4))
    keeper.close(30)
    assert (keeper.last.step, keeper.last.failures) == (4, 0)
