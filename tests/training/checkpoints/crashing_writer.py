"""Writes a checkpoint again and again, each time in a child that SIGKILLs itself one step later than the one before.

``python crashing_writer.py FOLDER``: FOLDER/1, FOLDER/2, ... stay as the children leave them; prints how each ended.
The steps are everything that the operating system is asked to do to the disk: create, sync, rename, remove, and a
tensor file of which only a half is there.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

from checkpoint_samples import JOB, place, snapshot

from lepton_p2p.training.checkpoints import Checkpoints, files
from lepton_p2p.training.snapshots import Snapshot

WATCHED = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}
OLD, NEW = 1, 2
"""Steps of the training in the checkpoint that is there, and in the one that is written."""


class Countdown:
    """The ``left``-th step is not done: the process dies before it."""

    def __init__(self, left: int) -> None:
        self.left = left

    def step(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self) -> None:
        save = files._save

        def watched_fsync(handle: int) -> None:
            self.step()  # and no more: the kernel survives the process, and a busy disk takes its time

        def watched_save(state: Snapshot, file: Path) -> None:
            save(state, file)
            data = file.read_bytes()
            file.write_bytes(data[: len(data) // 2])
            self.step()
            file.write_bytes(data)

        os.fsync = watched_fsync
        files._save = watched_save
        sys.addaudithook(lambda event, _: self.step() if event in WATCHED else None)


def attempt(folder: Path, new: Snapshot, steps: int) -> None:
    """In the child: a write that dies."""
    Countdown(steps).watch()
    Checkpoints(folder).write(new, place(NEW), job=JOB, strategy="all_reduce", keep=1)
    os._exit(0)


def main() -> None:
    folder, steps = Path(sys.argv[1]), 0
    Checkpoints(folder / "old").write(snapshot(OLD), place(OLD), job=JOB, strategy="all_reduce", keep=1)
    new = snapshot(NEW)
    while True:
        steps += 1
        shutil.copytree(folder / "old", folder / str(steps))
        if not (child := os.fork()):
            attempt(folder / str(steps), new, steps)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        print(code, flush=True)
        if code != -signal.SIGKILL:
            break


if __name__ == "__main__":
    main()
