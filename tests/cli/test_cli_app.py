"""The command line as a whole: what it accepts, and how it fails."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_samples import a_status
from typer.testing import CliRunner

from lepton_p2p import cli
from lepton_p2p._version import __version__
from lepton_p2p.cli.app import app
from lepton_p2p.config import PeerSettings
from lepton_p2p.transport.values import StatusReport

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``lepton-peer`` in this process: exit code, standard output, standard error."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lepton-peer", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        code = ended.value.code
        return (0 if code is None else int(code)), out, err

    return call


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"lepton-peer {__version__}\n", "")


def test_help_names_every_option_and_command() -> None:
    text = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    for name in PeerSettings.model_fields:
        assert f"--{name.replace('_', '-')}" in text
    for command in ("demo", "status", "submit", "export", "health"):
        assert command in text
    assert "--install-completion" in text


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["--preset", "wann"], 2, "--preset: 'wann' is not one of local, lan, wan (did you mean 'wan'?)"),
        (["--listen", "nowhere"], 2, "--listen: 'nowhere' is not an address: write HOST:PORT"),
        (["--swim", "probe_intervl=1"], 2, "--swim: unknown key 'probe_intervl' (did you mean 'probe_interval'?)"),
        (
            ["--job", "missing.toml", "status", "127.0.0.1:1"],
            2,
            "--job is for running a peer: leave it out with status",
        ),
        (["--swarm", "x", "status", "127.0.0.1:1"], 2, "--swarm is for running a peer: write it after status"),
        (["--config", "missing.toml"], 2, "missing.toml: cannot be read: No such file or directory"),
        (["--job", "missing.toml"], 3, "missing.toml: cannot be read: No such file or directory"),
        (["status", "nowhere"], 10, "'nowhere' is not an address"),
        (["status", "127.0.0.1:1"], 12, "nobody answers at 127.0.0.1:1"),
        (["export", "127.0.0.1:1", "--to", "x.safetensors"], 12, "nobody answers at 127.0.0.1:1"),
        (["submit", "127.0.0.1:1", "missing.toml"], 3, "missing.toml: cannot be read"),
    ],
)
def test_whatever_is_wrong_is_one_line_and_a_numbered_exit_code(
    run: Run, arguments: list[str], code: int, line: str
) -> None:
    found, out, err = run(*arguments)
    assert (found, out) == (code, "")
    assert err.startswith(f"lepton-peer: {line}")
    assert err.count("\n") == 1


def test_what_does_not_parse_is_a_usage_error(run: Run) -> None:
    assert run("statu", "127.0.0.1:1")[0] == 2
    assert run("status")[0] == 2


class ScriptedClient:
    """Stands for a client; answers from ``a_status``."""

    async def __aenter__(self) -> ScriptedClient:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        pass

    async def status(self) -> StatusReport:
        return a_status()


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """``status`` talks to a :class:`ScriptedClient`; whom it wanted to talk to."""
    asked: list[tuple[str, str]] = []

    def connect(address: str, *, swarm: str, keys: Path | None) -> ScriptedClient:
        asked.append((address, swarm))
        return ScriptedClient()

    monkeypatch.setattr("lepton_p2p.cli.status.connect", connect)
    return asked


def test_status_as_json(run: Run, scripted: list[tuple[str, str]]) -> None:
    code, out, err = run("status", "127.0.0.1:7701", "--json", "--swarm", "mine")
    assert (code, err, scripted) == (0, "", [("127.0.0.1:7701", "mine")])
    assert json.loads(out)["params_digest"] == "00ff00ff00ff00ff"


def test_status_for_people(run: Run, scripted: list[tuple[str, str]]) -> None:
    code, out, _ = run("status", "127.0.0.1:7701")
    assert code == 0
    assert "peer 00000001 at 127.0.0.1:7701, swarm lepton" in out
    assert scripted == [("127.0.0.1:7701", "lepton")]


def test_the_swarm_of_a_client_may_come_from_the_environment(
    run: Run, scripted: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEPTON_SWARM", "mine")
    run("status", "127.0.0.1:7701", "--json")
    assert scripted == [("127.0.0.1:7701", "mine")]


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**options: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("lepton_p2p.cli.app.load_settings", broken)
    monkeypatch.setattr(sys, "argv", ["lepton-peer"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_settings_from_the_command_line_reach_the_peer(
    monkeypatch: pytest.MonkeyPatch, run: Run, tmp_path: Path
) -> None:
    seen: list[PeerSettings] = []

    async def serve(settings: PeerSettings) -> None:
        seen.append(settings)

    monkeypatch.setattr("lepton_p2p.cli.peer.serve", serve)
    monkeypatch.setattr("lepton_p2p.logging.configure_logging", lambda level, format: None)
    arguments = ["--listen", "127.0.0.1:0", "--join", "127.0.0.1:1", "--join", "127.0.0.1:2", "--insecure"]
    assert run(*arguments, "--state-dir", str(tmp_path), "--exit-when-done", "--swim", "probe_interval=3")[0] == 0
    (settings,) = seen
    assert settings.join == ("127.0.0.1:1", "127.0.0.1:2")
    assert settings.insecure
    assert settings.exit_when_done
    assert settings.state_dir == tmp_path
    assert settings.timings().swim.probe_interval == 3.0
