"""The benchmark of robust aggregation: what its poisoners bring, and that the docs show what was measured."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from poisoners import ATTACKS, PEERS, RULES, Digits, Row, cell, contribution, digits, gradient, table
from torch import nn

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def setting() -> tuple[Digits, nn.Module]:
    return digits(1)


def test_peers_have_disjoint_batches(setting: tuple[Digits, nn.Module]) -> None:
    data, _ = setting
    batches = next(data.batches(1))
    assert len(batches) == PEERS
    assert len(torch.cat(batches).unique()) == sum(map(len, batches))


@pytest.mark.parametrize(
    ("attack", "factor"), [("", 1.0), ("sign flip", -1.0), ("reversed x10", -10.0), ("x1000", 1e3)]
)
def test_poisoners_bring_what_the_table_says(setting: tuple[Digits, nn.Module], attack: str, factor: float) -> None:
    data, model = setting
    batch = torch.arange(16)
    honest = gradient(model, data.x[batch], data.y[batch])
    torch.testing.assert_close(contribution(model, data, batch, attack), factor * honest)


def test_nan_is_one_and_labels_are_flipped(setting: tuple[Digits, nn.Module]) -> None:
    data, model = setting
    batch = torch.arange(16)
    assert int(contribution(model, data, batch, "NaN").isnan().sum()) == 1
    flipped = gradient(model, data.x[batch], 9 - data.y[batch])
    assert torch.equal(contribution(model, data, batch, "label flip"), flipped)


def test_trainings_that_ended_early_have_no_accuracy() -> None:
    row = Row("mean", "NaN", 1, 1, 0.9, math.inf, 0, 10, "", 1.0)
    ended = Row("mean", "NaN", 1, 1, 0.9, math.inf, 0, 10, "given up", 1.0)
    later = Row("mean", "NaN", 1, 1, 0.9, math.inf, 5, 10, "given up", 1.0)
    assert [cell([one]) for one in (row, ended, later)] == ["90.0", "no round", "diverged"]


def test_the_docs_show_what_was_measured() -> None:
    rows = [Row(**row) for row in json.loads((DOCS / "robust-aggregation.json").read_text())["rows"]]
    assert {(row.rule, row.attack, row.poisoners) for row in rows} == {
        (rule, *case) for rule in RULES for case in [("", 0), *((attack, n) for attack in ATTACKS for n in (1, 2))]
    }
    assert table(rows) in (DOCS / "robust-aggregation.md").read_text()
