"""The same training in one process: the reference that a swarm is compared with."""

from __future__ import annotations

from collections.abc import Callable

from lepton_p2p.jobs import Job, job_from_table
from lepton_p2p.models import Built, build
from lepton_p2p.training.local import LocalCollective, NoStateSource
from lepton_p2p.training.loop import Progress, Trainer


def train_alone(
    job: Job,
    built: Built | None = None,
    *,
    peers: int = 1,
    on_progress: Callable[[Progress], None] | None = None,
) -> Progress:
    """Train ``job`` synchronously in the calling thread with the summed batch of ``peers`` peers.

    ``built`` is changed: its model is the trained one.  The strategy of the job does not matter.
    """
    table = {**job.model_dump(mode="json"), "strategy": "all_reduce", "batch_size": job.batch_size * peers}
    alone = job_from_table(table)
    trainer = Trainer(
        alone,
        built or build(alone),
        collective=LocalCollective(),
        state_source=NoStateSource(),
        on_progress=on_progress,
        founder=True,
    )
    return trainer.run()
