"""``lepton-peer simulate``: what it prints, and what it says to a wrong option."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from lepton_p2p.cli.app import app
from lepton_p2p.cli.exit_codes import SIMULATION_FAILED
from lepton_p2p.errors import ConfigError
from lepton_p2p.simulation import swarm
from lepton_p2p.simulation.oracle import Violation

SMALL = ["simulate", "--peers", "3..4", "--storm", "5", "--workers", "1"]


def test_it_tells_how_fast_it_was_and_what_went_wrong_on_the_way() -> None:
    result = CliRunner().invoke(app, [*SMALL, "--seeds", "3"])
    assert result.exit_code == 0
    assert "3 seeds in" in result.stdout
    assert "per CPU-minute" in result.stdout
    assert "violations: 0" in result.stdout


def test_json_has_the_numbers() -> None:
    result = CliRunner().invoke(app, [*SMALL, "--seeds", "2", "--first", "8", "--json"])
    table = json.loads(result.stdout)
    assert table["seeds"] == 2
    assert table["violations"] == []
    assert table["rounds"] > 0


def test_one_seed_with_its_trace() -> None:
    result = CliRunner().invoke(app, [*SMALL, "--seed", "7", "--trace"])
    assert result.exit_code == 0
    assert "host-0/" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("seed 7: all is well")


def test_a_broken_invariant_is_named_and_comes_with_the_command_that_replays_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(self: swarm.VirtualSwarm) -> None:
        raise Violation("liveness", "nobody moves")

    monkeypatch.setattr(swarm.VirtualSwarm, "_storm", fail)
    result = CliRunner().invoke(app, [*SMALL, "--seeds", "2"])
    assert result.exit_code == SIMULATION_FAILED
    assert "violations: 2\n  seed 0: liveness: nobody moves\n    lepton-peer simulate --peers 3..4" in result.stdout
    assert "--trace --seed 0" in result.stdout
    assert CliRunner().invoke(app, [*SMALL, "--seed", "4"]).exit_code == SIMULATION_FAILED


def test_every_eighth_seed_is_a_swarm_that_gossips_and_all_are_if_told_so() -> None:
    result = CliRunner().invoke(app, [*SMALL, "--seeds", "2", "--first", "7"])
    assert "swarms that gossip: 1; shares that changed hands: " in result.stdout
    result = CliRunner().invoke(app, [*SMALL, "--seeds", "2", "--strategy", "gossip", "--json"])
    table = json.loads(result.stdout)
    assert (table["swarms_that_gossip"], table["rounds"]) == (2, 0)
    assert table["replay"].endswith("--strategy gossip --partitions both --trace --seed")
    result = CliRunner().invoke(app, [*SMALL, "--seed", "7", "--strategy", "gossip"])
    assert "shares changed hands" in result.stdout


def test_in_every_eighth_seed_one_side_of_a_split_goes_on_and_in_all_if_told_so() -> None:
    result = CliRunner().invoke(app, [*SMALL, "--seeds", "2", "--first", "3"])
    assert "swarms of which one side goes on: 1; waiting for a majority in the end: " in result.stdout
    result = CliRunner().invoke(app, [*SMALL, "--seeds", "2", "--partitions", "majority", "--json"])
    assert json.loads(result.stdout)["swarms_with_majority"] == 2
    result = CliRunner().invoke(app, [*SMALL, "--seeds", "2", "--partitions", "continue", "--first", "3"])
    assert "one side goes on" not in result.stdout


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--peers", "many"], "--peers is MIN..MAX"),
        (["--peers", "9..3"], "the smaller number first"),
        (["--peers", "0..3"], "there are 1 to"),
        (["--faults", "earthquake"], "there is no kind 'earthquake'"),
        (["--strategy", "none"], "it is one of all_reduce, gossip, both"),
        (["--partitions", "none"], "it is one of continue, majority, both"),
        (["--trace"], "add --seed N"),
    ],
)
def test_a_wrong_option_is_explained(options: list[str], says: str) -> None:
    result = CliRunner().invoke(app, ["simulate", *options])
    assert isinstance(result.exception, ConfigError)
    assert says in str(result.exception)


def test_kinds_of_faults_can_be_left_out() -> None:
    result = CliRunner().invoke(app, [*SMALL, "--seeds", "6", "--faults", "all,-crash,-crash-several,-loss", "--json"])
    assert not {"crash", "crash-several", "loss"} & set(json.loads(result.stdout)["faults"])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_and_its_workers_without_a_traceback(number: signal.Signals, code: int) -> None:
    # The workers inherit the pipe: it is at its end only when the last of them has gone.
    command = [sys.executable, "-m", "lepton_p2p", "simulate", "--seeds", "1000000", "--storm", "5", "--workers", "2"]
    watched = [sys.executable, "-c", _WATCHED, *command]
    with subprocess.Popen(watched, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "it counts\n"
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in errors
    assert "semaphore" not in errors


_WATCHED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from lepton_p2p.simulation import campaign
add = campaign.Tally.add
def told(self, outcome):
    add(self, outcome)
    if self.seeds == 1:
        print("it counts", flush=True)
campaign.Tally.add = told
if __name__ == "__main__":
    sys.argv = sys.argv[3:]
    from lepton_p2p.cli import main
    main()
"""
