"""Saving parameters: whole or not at all."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from lepton_p2p.cli.export import save
from lepton_p2p.errors import ConfigError


def test_what_is_saved_can_be_read_back_bit_for_bit(tmp_path: Path) -> None:
    weights = {"layer.weight": torch.randn(5, 3), "layer.steps": torch.tensor(7)}
    file = tmp_path / "model.safetensors"
    save(weights, file, {"job": "digits"})
    with safe_open(file, "pt") as content:
        assert content.metadata() == {"job": "digits"}
        for name, tensor in weights.items():
            assert torch.equal(content.get_tensor(name), tensor)


def test_an_earlier_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"old")
    save({"w": torch.ones(2)}, file, {})
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert file.read_bytes() != b"old"


def test_a_failure_leaves_the_earlier_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"old")
    shared = torch.ones(4)
    with pytest.raises(RuntimeError, match="share memory"):
        save({"a": shared, "b": shared}, file, {})
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert file.read_bytes() == b"old"


def test_a_folder_that_is_not_there_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written: No such file or directory"):
        save({"w": torch.ones(2)}, tmp_path / "missing" / "model.safetensors", {})


def test_others_may_read_it(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save({"w": torch.ones(2)}, file, {})
    plain = tmp_path / "plain"
    plain.touch()
    assert stat.S_IMODE(file.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
