"""Options: four sources in order, and one clear line for whatever is wrong in any of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import lepton_p2p as lp
from lepton_p2p.config import PeerSettings, load_settings
from lepton_p2p.durability import Interval
from lepton_p2p.errors import ConfigError
from lepton_p2p.membership.config import SwimConfig
from lepton_p2p.presets import timings
from lepton_p2p.rounds.patience import PatienceConfig


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.upper().startswith("LEPTON_"):
            monkeypatch.delenv(name)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def complaint(**options: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(**options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestOrder:
    def test_the_command_line_wins_over_the_environment_over_the_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = write(tmp_path / "peer.toml", 'swarm = "file"\npreset = "wan"\nlog_level = "debug"\n')
        monkeypatch.setenv("LEPTON_SWARM", "environment")
        monkeypatch.setenv("LEPTON_PRESET", "lan")
        settings = load_settings(config=file, swarm="command-line")
        assert (settings.swarm, settings.preset, settings.log_level) == ("command-line", "lan", "debug")

    def test_the_file_may_be_named_by_the_environment(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LEPTON_CONFIG", str(write(tmp_path / "peer.toml", '[lepton]\nswarm = "file"\n')))
        assert load_settings().swarm == "file"

    def test_other_tables_beside_lepton_are_somebody_elses(self, tmp_path: Path) -> None:
        file = write(tmp_path / "all.toml", '[tool]\nlisten = 1\n[lepton]\nswarm = "file"\n')
        assert load_settings(config=file).swarm == "file"

    @pytest.mark.parametrize(
        ("options", "preset"),
        [
            ({}, "local"),
            ({"join": ["127.0.0.1:7700"]}, "local"),
            ({"join": ["peer1:7700"]}, "lan"),
            ({"listen": "0.0.0.0:7700"}, "lan"),
            ({"listen": "[::1]:0"}, "local"),
        ],
    )
    def test_without_a_preset_the_address_decides_as_in_a_program(self, options: dict[str, Any], preset: str) -> None:
        settings = load_settings(**options)
        assert settings.timings() == timings(preset)  # type: ignore[arg-type]
        peer = lp.Peer(listen=settings.listen_address, join=settings.join)
        assert peer._options.patience == timings(preset).patience  # type: ignore[arg-type]

    def test_what_nobody_gives_comes_from_the_preset(self) -> None:
        for preset in ("local", "lan", "wan"):
            values = load_settings(preset=preset).timings()
            assert values.swim == getattr(SwimConfig, preset)()
            assert values.patience == getattr(PatienceConfig, preset)()

    def test_one_value_of_the_preset_can_be_replaced_from_every_source(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = write(tmp_path / "peer.toml", 'preset = "lan"\n[swim]\nprobe_interval = 7\nprobe_timeout = 0.7\n')
        monkeypatch.setenv("LEPTON_SWIM__PROBE_INTERVAL", "6.5")
        from_environment = load_settings(config=file).timings().swim
        assert (from_environment.probe_interval, from_environment.probe_timeout) == (6.5, 0.7)
        from_command_line = load_settings(config=file, swim=["probe_interval=5"]).timings().swim
        assert from_command_line.probe_interval == 5.0
        assert from_command_line.sync_interval == SwimConfig.lan().sync_interval

    def test_not_given_on_the_command_line_is_none(self) -> None:
        assert load_settings(listen=None, join=None, insecure=None) == load_settings()


class TestValues:
    def test_seeds_come_as_a_list_repeated_or_with_commas(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        expected = ("a:1", "b:2", "c:7700")
        assert load_settings(join=["a:1,b:2", "c"]).join == expected
        assert load_settings(config=write(tmp_path / "p.toml", 'join = ["a:1", "b:2", "c"]')).join == expected
        monkeypatch.setenv("LEPTON_JOIN", "a:1, b:2,c,a:1")
        assert load_settings().join == expected

    def test_paths_in_a_file_start_at_its_folder(self, tmp_path: Path) -> None:
        (tmp_path / "sub").mkdir()
        file = write(tmp_path / "sub" / "peer.toml", 'job = "job.toml"\nstate_dir = "/var/lib/lepton"\n')
        settings = load_settings(config=file)
        assert settings.job == tmp_path / "sub" / "job.toml"
        assert settings.state_dir == Path("/var/lib/lepton")

    @pytest.mark.parametrize(
        ("join", "listen"),
        [
            ([], "127.0.0.1:7700"),
            (["127.0.0.1:7700", "localhost:7701"], "127.0.0.1:0"),
            (["127.0.0.1:7700", "192.0.2.1:7700"], "0.0.0.0:0"),
            (["[2001:db8::1]:7700"], "[::]:0"),
            (["[::1]:7700"], "127.0.0.1:0"),
        ],
    )
    def test_the_listening_address_follows_from_the_seeds(self, join: list[str], listen: str) -> None:
        assert load_settings(join=join).listen_address == listen
        assert load_settings(join=join, listen="127.0.0.1:9").listen_address == "127.0.0.1:9"

    def test_booleans_are_understood_in_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LEPTON_INSECURE", "1")
        assert load_settings().insecure is True
        assert load_settings(insecure=False).insecure is False

    def test_settings_do_not_change(self) -> None:
        with pytest.raises(ValueError, match="frozen"):
            load_settings().swarm = "other"

    def test_every_option_is_documented_with_its_default(self) -> None:
        for name, field in PeerSettings.model_fields.items():
            assert field.description, name
            assert re.search(r"Default: [^ ]", field.description), name


class TestComplaints:
    def test_an_unknown_key_in_the_file_names_the_nearest(self, tmp_path: Path) -> None:
        file = write(tmp_path / "peer.toml", 'lisen = "127.0.0.1:0"\n')
        assert complaint(config=file) == f"{file}: unknown key 'lisen' (did you mean 'listen'?)"

    def test_an_unknown_key_near_to_nothing_lists_what_there_is(self, tmp_path: Path) -> None:
        line = complaint(config=write(tmp_path / "peer.toml", "qqq = 1\n"))
        assert "unknown key 'qqq' (known: listen, join" in line

    def test_a_mistyped_variable_names_the_nearest(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LEPTON_LISTN", "127.0.0.1:0")
        assert complaint() == "environment: unknown LEPTON_LISTN (did you mean LEPTON_LISTEN?)"

    def test_variables_that_container_platforms_set_are_no_mistake(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("PORT", "SERVICE_HOST", "PORT_7700_TCP_ADDR", "SERVICE_PORT"):
            monkeypatch.setenv(f"LEPTON_{name}", "10.0.0.1")
        assert load_settings().listen is None

    def test_a_wrong_choice_names_place_and_choices(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert complaint(preset="wann") == "--preset: 'wann' is not one of local, lan, wan (did you mean 'wan'?)"
        file = write(tmp_path / "peer.toml", 'log_format = "xml"\n')
        assert complaint(config=file) == f"{file}: log_format: 'xml' is not one of console, json"
        monkeypatch.setenv("LEPTON_LOG_LEVEL", "loud")
        assert complaint().startswith("LEPTON_LOG_LEVEL: 'loud' is not one of debug, info, warning, error")

    def test_a_wrong_type_names_place_and_value(self, tmp_path: Path) -> None:
        file = write(tmp_path / "peer.toml", 'exit_when_done = "perhaps"\n')
        assert re.fullmatch(rf"{re.escape(str(file))}: exit_when_done: .*boolean.*'perhaps'", complaint(config=file))

    def test_a_wrong_address_says_how_to_write_one(self) -> None:
        assert complaint(listen="nowhere") == (
            "--listen: 'nowhere' is not an address: write HOST:PORT, for example 127.0.0.1:7700"
        )
        assert complaint(join=["a:1", "b:99999"]).startswith("--join: 'b:99999' is not an address")

    def test_an_unknown_value_of_the_preset_names_the_nearest(self) -> None:
        assert complaint(swim=["probe_intervall=1"]) == (
            "--swim: unknown key 'probe_intervall' (did you mean 'probe_interval'?)"
        )
        assert complaint(swim=["probe_interval"]) == "--swim: write KEY=VALUE"
        assert complaint(swim=["probe_interval=soon"]).startswith("--swim: ")

    def test_a_file_that_cannot_be_used(self, tmp_path: Path) -> None:
        missing = tmp_path / "missing.toml"
        assert complaint(config=missing) == f"{missing}: cannot be read: No such file or directory"
        assert "is not TOML" in complaint(config=write(tmp_path / "a.toml", "listen = \n"))
        assert "write [lepton]" in complaint(config=write(tmp_path / "b.toml", "lepton = 1\n"))
        beside = write(tmp_path / "c.toml", 'swarm = "x"\n[lepton]\npreset = "lan"\n')
        assert complaint(config=beside).endswith("'swarm' stands outside the table [lepton]: move it there")

    def test_numbers_and_tables_beyond_what_python_reads_are_no_toml(self, tmp_path: Path) -> None:
        assert "is not TOML" in complaint(config=write(tmp_path / "long.toml", f"data_port = {'9' * 5000}\n"))
        assert "is not TOML" in complaint(config=write(tmp_path / "deep.toml", f"listen = {'[' * 5000}\n"))

    def test_a_value_is_quoted_only_as_far_as_one_reads(self) -> None:
        assert len(complaint(swarm="ä" * 100_000)) < 300

    @pytest.mark.parametrize("value", ["promise_timeout=-3", "stagger=nan", "seek_interval=inf", "max_attempts=0"])
    def test_agreement_needs_numbers_that_can_work(self, value: str) -> None:
        name = value.partition("=")[0]
        assert complaint(agreement=[value]).startswith(f"--agreement: agreement option {name} must be finite and above")


class TestCheckpoints:
    def test_they_are_written_every_minute_unless_something_else_is_said(self, tmp_path: Path) -> None:
        usual = load_settings(state_dir=tmp_path).durability
        assert (usual.every, usual.keep, usual.resume) == (Interval(seconds=60.0), 3, "auto")
        other = load_settings(state_dir=tmp_path, checkpoint_every="100", checkpoint_keep=7, resume="never").durability
        assert (other.every, other.keep, other.resume) == (Interval(steps=100), 7, "never")
        assert load_settings(state_dir=tmp_path, checkpoint_every="off").durability.every is None

    def test_a_checkpoint_named_in_a_file_is_beside_it(self, tmp_path: Path) -> None:
        file = write(tmp_path / "peer.toml", 'resume = "old/one"\n')
        assert load_settings(config=file).durability.resume == tmp_path / "old" / "one"
        file = write(tmp_path / "peer.toml", 'resume = "never"\n')
        assert load_settings(config=file).durability.resume == "never"

    def test_what_is_wrong_is_said_in_one_line(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert "--checkpoint-every" in complaint(checkpoint_every="5 minutes", state_dir=tmp_path)
        assert complaint(checkpoint_every="100") == "--checkpoint-every: checkpoints need a folder, give --state-dir"
        assert "--checkpoint-keep" in complaint(checkpoint_keep=0, state_dir=tmp_path)
        assert "--min-peers" in complaint(min_peers=0)
        monkeypatch.setenv("LEPTON_CHECKPOINT_EVERY", "0")
        assert "LEPTON_CHECKPOINT_EVERY" in complaint(state_dir=tmp_path)
