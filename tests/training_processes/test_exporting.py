"""``lepton-peer export``: what is in the file are the swarm's weights, also while the training goes on."""

from __future__ import annotations

from pathlib import Path

import safetensors
import safetensors.torch
from jobs_for_peers import small_job, wide_job
from peer_processes import TrainingSwarm

from lepton_p2p.jobs import load_job
from lepton_p2p.models import build
from lepton_p2p.training import digest_text, params_digest


def digest_of(exported: Path, job: Path) -> str:
    """Load the file into the job's model; the digest of that."""
    model = build(load_job(job)).model
    model.load_state_dict(safetensors.torch.load_file(exported))
    return digest_text(params_digest(model))


async def test_the_final_weights(swarm: TrainingSwarm) -> None:
    job = small_job(swarm.folder, steps=60)
    first = await swarm.start("--job", str(job))
    second = await swarm.start("--join", first.address)
    await swarm.done([first, second])
    to = swarm.folder / "model.safetensors"
    export = await swarm.command("export", second.address, "--to", str(to))
    assert export.status == 0, export
    assert export.out.startswith("wrote 4 tensors, ")
    assert first.final is not None
    assert digest_of(to, job) == first.final["params"]
    with safetensors.safe_open(to, framework="pt") as file:
        assert file.metadata()["job_digest"] == load_job(job).digest


async def test_while_the_training_goes_on(swarm: TrainingSwarm) -> None:
    job = wide_job(swarm.folder)
    first = await swarm.start("--job", str(job))
    second = await swarm.start("--join", first.address)
    await swarm.together([first, second])
    before = first.last_round
    to = swarm.folder / "model.safetensors"
    export = await swarm.command("export", second.address, "--to", str(to))
    assert export.status == 0, export
    await swarm.trained([first, second], 1)
    digests = {entry["params"] for entry in first.since(before)} | {first.rounds[before]["params"]}
    assert digest_of(to, job) in digests, "the weights as they were after one of the rounds, not a mixture"
    assert list(swarm.folder.iterdir()) == sorted({job, to}, key=list(swarm.folder.iterdir()).index), "nothing else"
