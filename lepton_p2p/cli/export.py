"""``lepton-peer export``: save the swarm's parameters as safetensors."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lepton_p2p.cli.options import ADDRESS, KEYS, SWARM
from lepton_p2p.cli.runner import run
from lepton_p2p.client import connect
from lepton_p2p.errors import ConfigError

if TYPE_CHECKING:
    import torch


def export(
    address: Annotated[str, ADDRESS],
    to: Annotated[Path, typer.Option("--to", help="The file to write, for example model.safetensors.")],
    swarm: Annotated[str, SWARM] = "lepton",
    keys: Annotated[Path | None, KEYS] = None,
) -> None:
    """Fetch the parameters from HOST:PORT, check them against their digest, and save them."""
    weights, metadata = run(_fetch(address, swarm, keys))
    save(weights, to, metadata)
    size = sum(tensor.nbytes for tensor in weights.values())
    print(f"wrote {len(weights)} tensors, {size} bytes, to {to}")


async def _fetch(address: str, swarm: str, keys: Path | None) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    async with connect(address, swarm=swarm, keys=keys) as client:
        weights = await client.weights()
        status = await client.status()
    return weights, {"format": "pt", "job": status.job_name, "job_digest": status.job_digest, "swarm": status.swarm}


def save(weights: dict[str, torch.Tensor], to: Path, metadata: dict[str, str]) -> None:
    """Write ``to`` whole or not at all: a temporary file beside it is moved over it."""
    from safetensors.torch import save_file  # imports torch: seconds that --help shall not cost

    try:
        handle, temporary = tempfile.mkstemp(dir=to.parent, prefix=f".{to.name}.")
        os.close(handle)
    except OSError as error:
        raise ConfigError(f"--to: {to} cannot be written: {error.strerror}") from None
    try:
        save_file(weights, temporary, metadata=metadata)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp is private; an exported model is an ordinary file
        os.replace(temporary, to)
    except BaseException:
        os.unlink(temporary)
        raise
