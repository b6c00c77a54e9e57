"""The training loop beside its strategy: snapshots at boundaries only."""

from __future__ import annotations

from lepton_p2p.jobs import job_from_table
from lepton_p2p.models import build
from lepton_p2p.training.local import LocalCollective, NoStateSource
from lepton_p2p.training.loop import Trainer
from lepton_p2p.training.snapshots import Snapshot

JOB = {
    "model": {"name": "linear", "inputs": 8},
    "data": {"name": "synthetic_linear", "samples": 8},
    "optimizer": {"name": "sgd", "lr": 0.1},
    "schedule": {"steps": 2},
}


class LateComer:
    """A lock that is wanted by rounds for a late comer: whenever it is free, they begin."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._lock = trainer._lock
        self._depth = 0

    def __enter__(self) -> None:
        self._lock.acquire()
        self._depth += 1

    def __exit__(self, *exc_info: object) -> None:
        self._depth -= 1
        self._trainer._idle = self._trainer._idle and self._depth > 0
        self._lock.release()


def test_a_snapshot_after_the_training_is_taken_before_more_rounds_can_begin() -> None:
    job = job_from_table(JOB)
    trainer = Trainer(job, build(job), collective=LocalCollective(), state_source=NoStateSource(), founder=True)
    trainer.run()
    capture, idle = trainer._capture, []

    def watched() -> Snapshot:
        idle.append(trainer._idle)
        return capture()

    trainer._capture = watched  # type: ignore[method-assign]
    trainer._lock = LateComer(trainer)  # type: ignore[assignment]
    trainer.snapshot_now().result(timeout=20)
    assert idle == [True]
