"""Imports point one way: the table of rooms in docs/architecture.md, enforced over every file of the package."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lepton_p2p"
IMPURE = frozenset(
    {"asyncio", "grpc", "torch", "time", "random", "uvloop", "socket", "threading", "secrets", "datetime"}
)
TOP = frozenset({"__init__", "__main__"})
"""Modules above all rooms: they gather the public names and start the command line."""


@dataclass(frozen=True)
class Row:
    """A row of the table: rooms that may import each other and all rows above."""

    rooms: tuple[str, ...]
    pure: bool


@dataclass(frozen=True)
class Import:
    """``module`` as written in ``path``; ``typing_only`` if it stands under ``if TYPE_CHECKING``."""

    path: Path
    line: int
    module: str
    typing_only: bool

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line} imports {self.module}"


def read_table() -> tuple[Row, ...]:
    """The rows of "Rooms" in docs/architecture.md: names in backticks, and whether the last column says yes."""
    rows = []
    for line in (ROOT / "docs" / "architecture.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("| `") and len(cells) == 3:
            names = re.findall(r"`([\w.]+)/?`", cells[0])
            rows.append(Row(tuple(name.removesuffix(".py") for name in names), cells[2] == "yes"))
    return tuple(rows)


TABLE = read_table()
RANK = {room: rank for rank, row in enumerate(TABLE) for room in row.rooms}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)


def room_of(path: Path) -> str:
    """The first name below the package: a folder or a module."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def is_typing_guard(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def walk(node: ast.AST, typing_only: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """Every node below ``node``, with whether it stands under ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        inside = typing_only or (is_typing_guard(node) and child in getattr(node, "body", ()))
        yield child, inside
        yield from walk(child, inside)


def imports(path: Path) -> Iterator[Import]:
    """All imports of a file, those inside functions included."""
    for node, typing_only in walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(path, node.lineno, alias.name, typing_only)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.relative_to(ROOT)}:{node.lineno} has a relative import: write it in full"
            assert node.module is not None
            if node.module == "lepton_p2p":
                for alias in node.names:
                    yield Import(path, node.lineno, f"lepton_p2p.{alias.name}", typing_only)
            else:
                yield Import(path, node.lineno, node.module, typing_only)


def test_the_table_is_read_as_it_is_meant() -> None:
    assert TABLE[0].rooms[:1] == ("errors",)
    assert RANK["membership"] < RANK["rounds"] < RANK["transport"] < RANK["collectives"] < RANK["training"]
    assert RANK["training"] < RANK["peer"] < RANK["cli"]
    assert TABLE[RANK["membership"]].pure
    assert TABLE[RANK["rounds"]].pure
    assert not TABLE[RANK["transport"]].pure


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_file_belongs_to_a_room_and_imports_only_rooms_above_it(path: Path) -> None:
    room = room_of(path)
    if room in TOP:
        return
    assert room in RANK, f"{room} is in no row of the table in docs/architecture.md"
    for found in imports(path):
        top, _, rest = found.module.partition(".")
        if top != "lepton_p2p":
            continue
        target = rest.partition(".")[0]
        assert target in RANK, f"{found}: name the module that has it, not the package"
        assert RANK[target] <= RANK[room], f"{found}, which is below {room} in the table of docs/architecture.md"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_pure_rooms_import_nothing_that_acts_on_the_world(path: Path) -> None:
    room = room_of(path)
    if room in TOP or not TABLE[RANK[room]].pure:
        return
    for found in imports(path):
        assert found.typing_only or found.module.partition(".")[0] not in IMPURE, f"{found}, but {room} is pure"


def test_a_forbidden_import_is_seen_wherever_it_hides(tmp_path: Path) -> None:
    file = tmp_path / "sample.py"
    file.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import random\nelse:\n    import time\n"
        "def f():\n    from lepton_p2p import peer\n    import torch.nn\n"
    )
    seen = [(found.module, found.typing_only) for found in imports(file)]
    assert seen == [
        ("typing", False),
        ("random", True),
        ("time", False),
        ("lepton_p2p.peer", False),
        ("torch.nn", False),
    ]
