"""What a peer writes down, in its own process, about everything that it trains: one line of JSON per event.

``round``: a decided round; ``shared`` is what every member must say alike, ``params`` the digest of its parameters and
buffers after the round ("" while it does not hold the swarm's state).  ``step``: a step without a round (gossip).
``served``: a chunk of the state that was given to a joiner.  ``final``: training is complete.  ``at``: seconds of the
clock that all processes of a machine share (CLOCK_MONOTONIC).

Installed by ``zygote`` before the command line runs; nothing of the package is changed but which trainer the
job's host makes and who reads a snapshot.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from lepton_p2p.jobs import Job
from lepton_p2p.models import Built
from lepton_p2p.rounds.result import RoundResult
from lepton_p2p.runtime import job_host
from lepton_p2p.training.loop import Progress, Trainer
from lepton_p2p.training.snapshots import Snapshot
from lepton_p2p.training.state import digest_text, params_digest

Write = Callable[[dict[str, Any]], None]


def install(channel: socket.socket, hooks: dict[str, int]) -> None:
    """Write to ``channel`` from now on.

    hooks: ``weights_every``: in every so many rounds the line has the parameters themselves; ``die_after_chunks``:
    SIGKILL to this process when it has been asked for so many chunks of the state; ``count_after_signal``: only those
    count that it is asked for after SIGUSR2 (``armed`` is written then).
    """

    # The training thread and the loop write; a line must not be cut by another.
    lock = threading.RLock()

    def write(line: dict[str, Any]) -> None:
        with lock:
            channel.sendall(json.dumps(line).encode() + b"\n")

    vars(job_host)["Trainer"] = _trainer(write, hooks.get("weights_every", 0))
    _watch_snapshots(write, hooks.get("die_after_chunks", 0), armed=not hooks.get("count_after_signal", 0))


def _trainer(write: Write, weights_every: int) -> type[Trainer]:
    class WritingTrainer(Trainer):
        def __init__(
            self, job: Job, built: Built, *, on_progress: Callable[[Progress], None] | None = None, **more: Any
        ) -> None:
            written: list[object] = [None]

            def tell(progress: Progress) -> None:
                # The same report is told again when the phase changes.
                if progress.report is not written[0] and progress.report is not None:
                    written[0] = progress.report
                    write(_line(progress, built, weights_every))
                if progress.phase == "done":
                    write({"kind": "final", "step": progress.step, "params": digest_text(params_digest(built.model))})
                if on_progress is not None:
                    on_progress(progress)

            super().__init__(job, built, on_progress=tell, **more)

    return WritingTrainer


def _line(progress: Progress, built: Built, weights_every: int) -> dict[str, Any]:
    report = progress.report
    assert report is not None
    line: dict[str, Any] = {
        "at": time.monotonic(),
        "phase": progress.phase,
        "step": report.step,
        "pass": report.pass_number,
        "samples": report.samples,
        "new": report.new_samples,
        "skipped": report.skipped,
        "metrics": dict(progress.metrics),
    }
    result = report.result
    if result is None:
        return {"kind": "step", **line}
    holds = progress.phase != "joining"
    if holds and weights_every and result.round % weights_every == 0:
        line["weights"] = [value for parameter in built.model.parameters() for value in parameter.flatten().tolist()]
    params = digest_text(params_digest(built.model)) if holds else ""
    own = {"attempts": result.attempts, "recovered": result.recovered, "params": params}
    return {"kind": "round", "round": result.round, "shared": _shared(result), **own, **line}


def _shared(result: RoundResult) -> dict[str, Any]:
    return {
        "round": result.round,
        "epoch": result.epoch,
        "members": list(result.members),
        "contributors": list(result.contributors),
        "refused": list(result.refused),
        "total_weight": result.total_weight,
        "digest": result.digest,
        "notes": {peer: note.hex() for peer, note in result.notes.items()},
    }


def _watch_snapshots(write: Write, die_after: int, *, armed: bool) -> None:
    read, asked, counting = Snapshot.read, [0], [armed]

    def arm(*_: object) -> None:
        counting[0] = True
        write({"kind": "armed"})

    signal.signal(signal.SIGUSR2, arm)

    def counted(snapshot: Snapshot, offset: int, length: int) -> memoryview:
        asked[0] += counting[0]
        if asked[0] == die_after:
            os.kill(os.getpid(), signal.SIGKILL)
        write({"kind": "served", "round": snapshot.round, "offset": offset, "length": length})
        return read(snapshot, offset, length)

    Snapshot.read = counted  # type: ignore[method-assign, assignment]
