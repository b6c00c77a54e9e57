"""The command line: the options of a peer, and the commands beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import structlog
import typer

from lepton_p2p._version import __version__
from lepton_p2p.cli.demo import demo
from lepton_p2p.cli.export import export
from lepton_p2p.cli.health import health
from lepton_p2p.cli.keys import keys as keys_app
from lepton_p2p.cli.options import option
from lepton_p2p.cli.simulate import simulate
from lepton_p2p.cli.status import status
from lepton_p2p.cli.submit import submit
from lepton_p2p.config import load_settings
from lepton_p2p.errors import ConfigError

log = structlog.get_logger(__name__)
app = typer.Typer(
    name="lepton-peer",
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Every option is also LEPTON_* in the environment (LEPTON_LISTEN) and a key of the TOML file (listen). "
    "The order is command line, environment, file, preset.",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"lepton-peer {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def peer(
    ctx: typer.Context,
    listen: Annotated[str | None, option("listen", metavar="HOST:PORT")] = None,
    join: Annotated[list[str] | None, option("join", metavar="HOST:PORT")] = None,
    job: Annotated[Path | None, option("job", metavar="FILE")] = None,
    preset: Annotated[str | None, option("preset", metavar="local|lan|wan")] = None,
    swarm: Annotated[str | None, option("swarm", metavar="NAME")] = None,
    insecure: Annotated[bool | None, option("insecure", "--insecure/--no-insecure")] = None,
    state_dir: Annotated[Path | None, option("state_dir", metavar="FOLDER")] = None,
    keys: Annotated[Path | None, option("keys", metavar="FOLDER")] = None,
    token: Annotated[str | None, option("token", metavar="TOKEN")] = None,
    token_file: Annotated[Path | None, option("token_file", metavar="FILE")] = None,
    checkpoint_every: Annotated[str | None, option("checkpoint_every", metavar="STEPS|TIME|off")] = None,
    checkpoint_keep: Annotated[int | None, option("checkpoint_keep", metavar="COUNT")] = None,
    resume: Annotated[str | None, option("resume", metavar="auto|never|PATH")] = None,
    partitions: Annotated[str | None, option("partitions", metavar="continue|majority")] = None,
    min_peers: Annotated[int | None, option("min_peers", metavar="COUNT")] = None,
    advertise: Annotated[str | None, option("advertise", metavar="HOST:PORT")] = None,
    data_port: Annotated[int | None, option("data_port", metavar="PORT")] = None,
    share_memory: Annotated[bool | None, option("share_memory", "--share-memory/--no-share-memory")] = None,
    config: Annotated[Path | None, option("config", metavar="FILE")] = None,
    exit_when_done: Annotated[bool | None, option("exit_when_done", "--exit-when-done/--stay")] = None,
    metrics: Annotated[Path | None, option("metrics", metavar="FILE")] = None,
    log_level: Annotated[str | None, option("log_level", metavar="LEVEL")] = None,
    log_format: Annotated[str | None, option("log_format", metavar="console|json")] = None,
    swim: Annotated[list[str] | None, option("swim", metavar="KEY=VALUE")] = None,
    patience: Annotated[list[str] | None, option("patience", metavar="KEY=VALUE")] = None,
    agreement: Annotated[list[str] | None, option("agreement", metavar="KEY=VALUE")] = None,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Run a peer that trains one PyTorch model together with others; no coordinator, no silent loss.

    Without --join it starts a swarm, with it it joins one. Any machine may die, the others go on.
    """
    given = {name: value for name, value in ctx.params.items() if name != "version" and value is not None}
    given = {name: value for name, value in given.items() if value not in ([], ())}
    if ctx.invoked_subcommand is not None:
        if given:
            name, command = next(iter(given)), ctx.invoked_subcommand
            advice = f"write it after {command}" if name in ("swarm", "keys") else f"leave it out with {command}"
            raise ConfigError(f"--{name.replace('_', '-')} is for running a peer: {advice}")
        return
    settings = load_settings(**given)

    from lepton_p2p.cli.peer import serve  # torch and grpc: seconds that --help shall not cost
    from lepton_p2p.cli.runner import run
    from lepton_p2p.logging import configure_logging

    configure_logging(settings.log_level, settings.log_format)
    if token is not None:
        log.warning("every user of this machine can read --token in the list of processes: use LEPTON_TOKEN or a file")
    run(serve(settings))


app.command()(status)
app.command()(submit)
app.command()(export)
app.command()(demo)
app.command()(health)
app.command()(simulate)
app.add_typer(keys_app)
