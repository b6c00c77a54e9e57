"""The room is pure: it can be run by any driver, and by a simulator on a virtual clock."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import lepton_p2p.membership as room

ALLOWED = {"__future__", "collections", "dataclasses", "enum", "itertools", "math", "typing"}
FRIENDS = ("lepton_p2p.errors", "lepton_p2p.identity", "lepton_p2p.sansio", "lepton_p2p.membership")
FILES = sorted(Path(room.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_imports_nothing_but_plain_values_and_its_friends(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "."]
        else:
            continue
        for name in names:
            assert name.split(".")[0] in ALLOWED or name.startswith(FRIENDS), f"{path.name} imports {name}"


def test_all_names_are_exported() -> None:
    assert room.__all__ == sorted(room.__all__)
    assert all(hasattr(room, name) for name in room.__all__)
