"""The demo's promises: when each holds, and that one that does not is seen."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from lepton_p2p.cli.demo.verdict import Outcome

GOOD = Outcome(
    strategy="all_reduce",
    peers=4,
    accuracy_swarm=0.975,
    accuracy_alone=0.97,
    rounds_done=900,
    rounds_retried=2,
    rounds_lost=0,
    recovery_seconds=0.31,
    digests={f"peer{number}": "00ff00ff00ff00ff" for number in range(4)},
    seconds=61.0,
)


def drawn(outcome: Outcome) -> str:
    console = Console(file=io.StringIO(), width=140)
    console.print(outcome.table())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_all_promises_kept() -> None:
    assert GOOD.passed
    assert GOOD.to_dict()["failed"] == []
    assert "NOT MET" not in drawn(GOOD)


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({"accuracy_swarm": 0.949, "accuracy_alone": 0.949}, "accuracy, swarm"),
        ({"accuracy_alone": 0.9872}, "accuracy, one process"),
        ({"accuracy_alone": 0.9628}, "accuracy, one process"),
        ({"rounds_done": 0}, "rounds done"),
        ({"rounds_lost": 1}, "rounds lost"),
        ({"digests": {**GOOD.digests, "peer3": "0000000000000001"}}, "digest of survivors"),
        ({"digests": {"peer0": "00ff00ff00ff00ff"}}, "digest of survivors"),
        ({"digests": dict.fromkeys(GOOD.digests, "")}, "digest of survivors"),
    ],
)
def test_a_promise_that_is_not_kept_is_named(changes: dict[str, Any], failed: str) -> None:
    outcome = replace(GOOD, **changes)
    assert not outcome.passed
    assert outcome.to_dict()["failed"] == [failed]
    line = next(line for line in drawn(outcome).splitlines() if failed in line)
    assert "NOT MET" in line


def test_exactly_one_point_is_within_one_point() -> None:
    assert replace(GOOD, accuracy_swarm=0.97, accuracy_alone=0.96).passed


def test_differing_digests_are_listed_by_peer() -> None:
    text = drawn(replace(GOOD, digests={"aaaa": "01", "bbbb": "02", "cccc": "01", "dddd": ""}))
    for line in ("aaaa: 01", "bbbb: 02", "dddd: none"):
        assert line in text


def test_json_has_numbers_not_text() -> None:
    table = json.loads(json.dumps(GOOD.to_dict()))
    assert table["passed"] is True
    assert (table["accuracy_swarm"], table["rounds_lost"], table["recovery_seconds"]) == (0.975, 0, 0.31)
    assert set(table["digests"].values()) == {"00ff00ff00ff00ff"}
