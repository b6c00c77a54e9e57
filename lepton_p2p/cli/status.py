"""``lepton-peer status``: what one peer knows and does."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lepton_p2p.cli.options import ADDRESS, JSON, KEYS, SWARM
from lepton_p2p.cli.progress import follow, view_for
from lepton_p2p.cli.runner import run
from lepton_p2p.cli.views import status_panel, status_to_dict
from lepton_p2p.client import SwarmStatus, connect


def status(
    address: Annotated[str, ADDRESS],
    swarm: Annotated[str, SWARM] = "lepton",
    keys: Annotated[Path | None, KEYS] = None,
    as_json: Annotated[bool, JSON] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Keep showing it until Ctrl+C.")] = False,
    interval: Annotated[float, typer.Option(help="Seconds between looks with --watch.", min=0.05)] = 0.5,
) -> None:
    """Show what the peer at HOST:PORT knows and does: members, epoch, step, loss, speed."""
    run(_watch(address, swarm, keys, as_json, interval) if watch else _once(address, swarm, keys, as_json))


def _print_json(status: SwarmStatus) -> None:
    print(json.dumps(status_to_dict(status)), flush=True)


async def _once(address: str, swarm: str, keys: Path | None, as_json: bool) -> None:
    async with connect(address, swarm=swarm, keys=keys) as client:
        found = await client.status()
    if as_json:
        _print_json(found)
    else:
        Console().print(status_panel(found))


async def _watch(address: str, swarm: str, keys: Path | None, as_json: bool, interval: float) -> None:
    async with connect(address, swarm=swarm, keys=keys) as client:
        if as_json:
            while True:
                _print_json(await client.status())
                await asyncio.sleep(interval)
        with view_for(Console()) as view:
            await follow(client.status, view.show, interval=interval)
