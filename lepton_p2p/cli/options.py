"""Options of the command line, described once: in :class:`PeerSettings`."""

from __future__ import annotations

import re
from typing import Any

import typer

from lepton_p2p.config import PeerSettings


def option(name: str, *flags: str, **more: Any) -> Any:
    """A typer option for the setting ``name``: its flag, and the first and last sentence of its description as help.

    The default is always None, "not given": what then holds is for :func:`lepton_p2p.config.load_settings` to say.
    """
    whole = PeerSettings.model_fields[name].description or ""
    what, default = re.split(r"\. ", whole)[0], whole.rpartition("Default: ")[2]
    help = f"{what}. Default: {default}"
    return typer.Option(*(flags or (f"--{name.replace('_', '-')}",)), help=help, show_default=False, **more)


ADDRESS = typer.Argument(help="HOST:PORT of any peer of the swarm.", show_default=False)
SWARM = typer.Option("--swarm", help="Name of the swarm.", envvar="LEPTON_SWARM", show_envvar=False)
KEYS = typer.Option(
    "--keys",
    help="Folder with this machine's credentials, for a swarm that has some.",
    envvar="LEPTON_KEYS",
    show_envvar=False,
    show_default=False,
)
JSON = typer.Option("--json", help="Print JSON for programs instead of text for people.")
