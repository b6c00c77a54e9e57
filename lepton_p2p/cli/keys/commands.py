"""The commands of ``lepton-peer keys``."""

from __future__ import annotations

import re
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
    Certificate,
    depth_of,
    make_invite,
    name_of,
    now,
    role_of,
    swarm_of,
)
from lepton_p2p.credentials.enrolment import check_name, usable_name
from lepton_p2p.credentials.folder import KeysFolder, described
from lepton_p2p.credentials.keys import write_secret
from lepton_p2p.credentials.revocations import MAX_REASON, Revocations
from lepton_p2p.credentials.revocations import revoke as make_statement
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
_LEAST_PREFIX = 6
"""Digits of an id that may stand for all of them."""


@keys.command()
def init(
    folder: Annotated[Path, KEYS] = DEFAULT_FOLDER,
    swarm: Annotated[str, typer.Option("--swarm", help="Name of the swarm.", envvar="LEPTON_SWARM")] = "lepton",
    name: Annotated[str | None, typer.Option("--name", help="Name of this machine. Default: its host name.")] = None,
) -> None:
    """Make a swarm: its authority, and credentials of this machine, which may let others in.

    FOLDER/authority.key can make anybody a member. Only `keys` needs it: move it to a safe place when all is set up.
    """
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", swarm):
        raise ConfigError(f"--swarm: a swarm's name is 1 to {MAX_NAME} letters, digits, dots, dashes and underscores")
    node = KeysFolder(folder).init(swarm, _name(name))
    named = "" if swarm == "lepton" else f" --swarm {swarm}"
    print(f"made swarm {swarm} in {folder}; this machine is node {node.id[:8]}")
    print(f"start its first peer:  lepton-peer --keys {folder} --listen 0.0.0.0:7700{named}")
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
    here = KeysFolder(folder)
    made = make_invite(here.issuer(), hours=hours, may_issue=issuer)
    here.record(made.certificate)
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
    """List the nodes that were certified, and the invitations that were made, with the credentials in the folder."""
    here = KeysFolder(folder)
    node = here.node()
    revoked = {statement.node: statement for statement in Revocations(node.authority, here.revoked())}
    table = Table(Column("id", no_wrap=True), "what", "name", "valid until", "")
    for certificate in (node.certificate, *here.issued()):
        id, name = described(certificate)
        what = "issuer" if depth_of(certificate) > 0 else str(role_of(certificate))
        remark = f"revoked: {revoked[id].reason}" if id in revoked else "this machine" if id == node.id else ""
        table.add_row(id, what, name, _when(certificate.not_valid_after_utc), remark)
    Console().print(table)


@keys.command()
def revoke(
    which: Annotated[
        str, typer.Argument(metavar="NODE", help="Id (or its beginning) or name of a node or invitation.")
    ],
    folder: Annotated[Path, KEYS] = DEFAULT_FOLDER,
    at: Annotated[
        list[str] | None, typer.Option("--at", metavar="HOST:PORT", help="A running peer to tell; it tells the others.")
    ] = None,
    reason: Annotated[str, typer.Option(help="Why; everybody is shown it.")] = "no reason given",
) -> None:
    """End the membership of a machine, or the use of an invitation, for good.

    Whoever has authority.key can revoke anybody, an issuer what it certified. What a revoked issuer has certified is
    revoked with it.
    """
    from lepton_p2p.cli.keys.telling import tell  # grpc: half a second that the other commands shall not cost
    from lepton_p2p.cli.runner import run

    if len(reason) > MAX_REASON or not reason.isprintable():
        raise ConfigError(f"--reason: one line of at most {MAX_REASON} characters")
    here = KeysFolder(folder)
    id, certificate = _found(here, which)
    statement = make_statement(here.issuer(), certificate, id, reason)
    known = Revocations(here.authority(), here.revoked())
    known.add([statement.encoded])
    here.keep_revoked(known.encoded())
    print(f"revoked {id}")
    if at:
        run(tell(at, here.valid_node()[0], known))
        print(f"told {', '.join(at)}")
    else:
        print("nobody knows yet: name a running peer with --at, or start one with these --keys", file=sys.stderr)


def _found(folder: KeysFolder, which: str) -> tuple[str, Certificate | None]:
    """The id that ``which`` means, and its certificate if it was issued here."""
    issued = {described(certificate)[0]: certificate for certificate in folder.issued()}
    hits = [id for id, certificate in issued.items() if which == name_of(certificate)]
    hits = hits or [id for id in issued if len(which) >= _LEAST_PREFIX and id.startswith(which)]
    if len(hits) > 1:
        raise ConfigError(f"{which!r} is one of {', '.join(hits)}: name the one that you mean")
    if hits:
        return hits[0], issued[hits[0]]
    if not re.fullmatch(r"[0-9a-f]{32}", which):
        raise ConfigError(f"nothing called {which!r} was issued here (see keys list); another's needs its whole id")
    return which, None


def _name(given: str | None) -> str:
    try:
        return usable_name(socket.gethostname()) if given is None else check_name(given)
    except ValueError as error:
        raise ConfigError(f"--name: {error}") from None


def _when(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"
