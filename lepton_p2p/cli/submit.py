"""``lepton-peer submit``: give a swarm something to train."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lepton_p2p.cli.options import ADDRESS, JSON, KEYS, SWARM
from lepton_p2p.cli.runner import run
from lepton_p2p.client import connect

if TYPE_CHECKING:
    from lepton_p2p.jobs import Job


def submit(
    address: Annotated[str, ADDRESS],
    job: Annotated[Path, typer.Argument(help="A TOML job, checked here before it is sent.", show_default=False)],
    swarm: Annotated[str, SWARM] = "lepton",
    keys: Annotated[Path | None, KEYS] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Give the swarm at HOST:PORT a job to train."""
    from lepton_p2p.jobs import load_job  # torch: seconds that --help shall not cost

    document = load_job(job)
    run(_submit(address, swarm, keys, document))
    if as_json:
        print(json.dumps({"accepted": True, "job_name": document.name, "job_digest": document.digest}))
    else:
        print(f"the swarm trains {document.name} (job {document.digest[:16]})")


async def _submit(address: str, swarm: str, keys: Path | None, job: Job) -> None:
    async with connect(address, swarm=swarm, keys=keys) as client:
        await client.submit(job)
