"""A process that dies at any step of writing a checkpoint leaves a whole one behind, the old or the new."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from signal import SIGKILL

import pytest
import torch
from checkpoint_samples import JOB, place, snapshot
from crashing_writer import NEW, OLD

from lepton_p2p.training.checkpoints import Checkpoints
from lepton_p2p.training.checkpoints.files import UNFINISHED
from lepton_p2p.training.checkpoints.folder import open_checkpoint


@pytest.mark.timeout(180)  # some thirty processes, on a machine that may be busy
def test_sigkill_at_every_step_of_the_write_leaves_a_valid_checkpoint_and_nothing_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    script = Path(__file__).with_name("crashing_writer.py")
    command = [sys.executable, str(script), str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=150, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    codes = [int(line) for line in done.stdout.split()]
    assert codes, done.stderr
    assert codes[-1] == 0, done.stderr
    assert set(codes[:-1]) == {-SIGKILL}
    assert len(codes) > 15, "the write has that many steps at least"

    found: list[int] = []
    expected = {step: snapshot(step) for step in (OLD, NEW)}
    for attempt in range(1, len(codes) + 1):
        checkpoints = Checkpoints(tmp_path / str(attempt))
        newest = checkpoints.newest(JOB)
        assert newest is not None, f"nothing valid is left after a death at step {attempt}"
        visible = [path for path in checkpoints.folder.iterdir() if not path.name.startswith(UNFINISHED)]
        for path in visible:
            open_checkpoint(path).load()  # raises for one that is not whole
        checkpoint, state = newest
        assert torch.equal(state.image, expected[checkpoint.record.step].image)
        found.append(checkpoint.record.step)
        later = checkpoints.write(expected[OLD], place(3), job=JOB, strategy="all_reduce", keep=1)
        left = list(checkpoints.folder.iterdir())
        assert left == [later.path], f"something is left of a death at step {attempt}: {left}"
    assert found == sorted(found)
    assert set(found) == {OLD, NEW}
