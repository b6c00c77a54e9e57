"""The commands of ``lepton-peer keys``."""

from __future__ import annotations

import socket
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from lepton_p2p.cli.options import ADDRESS
from lepton_p2p.credentials.bearer import read_bearer
from lepton_p2p.credentials.certificates import (
    MAX_NAME,
    depth_of,
    make_invite,
    name_of,
    now,
    swarm_of,
)
from lepton_p2p.credentials.enrolment import check_name, usable_name
from lepton_p2p.credentials.folder import KeysFolder, described
from lepton_p2p.credentials.keys import write_secret
from lepton_p2p.credentials.tokens import write_token
from lepton_p2p.errors import ConfigError, CredentialsRefused

keys = typer.Typer(
    name="keys",
    help="Make and manage a swarm's credentials: who may join, and who not any more.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

KEYS = typer.Option("--keys", help="Folder with the credentials.", envvar="LEPTON_KEYS", show_envvar=False)
DEFAULT_FOLDER = Path("lepton-keys")
MAX_HOURS = 24 * 30


@keys.command()
def init(
    folder: Annotated[Path, KEYS] = DEFAULT_FOLDER,
    swarm: Annotated[str, typer.Option("--swarm", help="Name of the swarm.", envvar="LEPTON_SWARM")] = "lepton",
    name: Annotated[str | None, typer.Option("--name", help="Name of this machine. Default: its host name.")] = None,
) -> None:
    """Make a swarm: its authority, and credentials of this machine, which may let others in.

    FOLDER/authority.key can make anybody a member. Only `keys` needs it: move it to a safe place when all is set up.
    """
    if not 0 < len(swarm) <= MAX_NAME or not swarm.isprintable():
        raise ConfigError(f"--swarm: a swarm's name has 1 to {MAX_NAME} characters")
    node = KeysFolder(folder).init(swarm, _name(name))
    print(f"made swarm {swarm} in {folder}; this machine is node {node.id[:8]}")
    print(f"start its first peer:  lepton-peer --keys {folder} --listen 0.0.0.0:7700")
    print(f"let a machine in:      lepton-peer keys invite --keys {folder}")


@keys.command()
def invite(
    folder: Annotated[Path, KEYS] = DEFAULT_FOLDER,
    hours: Annotated[float, typer.Option(help="How long it can be used.", min=0.01, max=MAX_HOURS)] = 24.0,
    issuer: Annotated[bool, typer.Option("--issuer", help="Who joins with it may let others in, too.")] = False,
    to: Annotated[
        Path | None, typer.Option("--to", help="Write the token to this file (0600) instead of printing it.")
    ] = None,
) -> None:
    """Print a join token: whoever has it can join until it expires. Treat it like a password."""
    made = make_invite(KeysFolder(folder).issuer(), hours=hours, may_issue=issuer)
    bearer = read_bearer(made.chain, made.authority, now())
    if to is None:
        print(write_token(made))
    else:
        try:
            write_secret(to, write_token(made).encode() + b"\n")
        except FileExistsError:
            raise ConfigError(f"{to} exists: choose another file") from None
    what = "an issuer" if issuer else "a member"
    # Not on standard output, so that `keys invite > token` holds the token and nothing else.
    print(
        f"invitation {made.id[:8]} to swarm {made.swarm} as {what}, until {_when(bearer.expires)}; "
        "join with LEPTON_TOKEN or --token-file",
        file=sys.stderr,
    )


@keys.command()
def renew(
    address: Annotated[str, ADDRESS],
    folder: Annotated[Path, KEYS] = DEFAULT_FOLDER,
) -> None:
    """Get a new certificate for this machine's key from the member at HOST:PORT, which must be an issuer."""
    from lepton_p2p.cli.keys.renewing import renewed  # grpc: half a second that the other commands shall not cost
    from lepton_p2p.cli.runner import run

    here = KeysFolder(folder)
    node = run(renewed(address, here.valid_node()[0]))
    here.store(node)
    print(f"node {node.id[:8]} is certified until {_when(node.certificate.not_valid_after_utc)}")


@keys.command()
def show(folder: Annotated[Path, KEYS] = DEFAULT_FOLDER) -> None:
    """Show whose credentials the folder holds, and whether they are valid."""
    here = KeysFolder(folder)
    authority, node = here.authority(), here.node()
    try:
        state = f"valid until {_when(read_bearer(node.chain, authority, now()).expires)}"
    except CredentialsRefused as error:
        state = f"not valid: {error}"
    print(f"swarm      {swarm_of(authority)}")
    print(f"authority  {described(authority)[0]}, its key is {'here' if here.has_authority_key else 'not here'}")
    print(f"node       {node.id} ({name_of(node.certificate)}), {state}")
    print(f"may issue  {'yes' if depth_of(node.certificate) > 0 else 'no'}")


@keys.command("list")
def list_(folder: Annotated[Path, KEYS] = DEFAULT_FOLDER) -> None:
    """List the nodes that were certified with the credentials in the folder."""
    here = KeysFolder(folder)
    node = here.node()
    table = Table(Column("node", no_wrap=True), "name", "may issue", "valid until", "")
    for certificate in (node.certificate, *here.issued()):
        id, name = described(certificate)
        issues = "yes" if depth_of(certificate) > 0 else "no"
        table.add_row(id, name, issues, _when(certificate.not_valid_after_utc), "this one" if id == node.id else "")
    Console().print(table)


def _name(given: str | None) -> str:
    try:
        return usable_name(socket.gethostname()) if given is None else check_name(given)
    except ValueError as error:
        raise ConfigError(f"--name: {error}") from None


def _when(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"
