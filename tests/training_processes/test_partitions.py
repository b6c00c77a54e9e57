"""A swarm of real peers on machines of their own is cut in two, and is one again when the network is.

What is checked is in the program that also draws the plot of docs/partitions.md: parameters are equal after every
round, the two halves used what they say, and what both used is counted.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from network_namespaces import impossible

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "split.py"
pytestmark = [
    pytest.mark.skipif(bool(impossible()), reason=f"network namespaces cannot be made here: {impossible()}"),
    pytest.mark.timeout(300),
]


def split(folder: Path, policy: str, *options: str) -> dict[str, Any]:
    """What came of a split of some seconds."""
    seen = folder / "seen.json"
    argv = [sys.executable, str(PROGRAM), "--policy", policy, "--json", str(seen), *options]
    times = ("--before", "2", "--apart", "8", "--after", "2")
    done = subprocess.run([*argv, *times], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-6000:]
    found: dict[str, Any] = json.loads(seen.read_text())
    return found


def test_both_halves_go_on_and_bring_together_what_they_did(tmp_path: Path) -> None:
    seen = split(tmp_path, "continue")
    assert seen["rounds_of_the_heavier_half"] > 3
    assert seen["rounds_of_the_other_half"] > 3
    assert seen["samples_used_twice"] > 0


def test_with_policy_majority_one_half_waits_and_nothing_is_used_twice(tmp_path: Path) -> None:
    seen = split(tmp_path, "majority", "--peers", "3")
    assert seen["rounds_of_the_other_half"] <= 1, "the one that was under way when the network was cut"
    assert seen["samples_used_twice"] <= 16
