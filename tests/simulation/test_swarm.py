"""Whole seeds: what they must be like, whatever they tell."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest

from lepton_p2p.simulation import mishaps, peer
from lepton_p2p.simulation.campaign import Tally, plans, run, sweep
from lepton_p2p.simulation.mishaps import FAULTS, MISHAPS
from lepton_p2p.simulation.plan import Plan
from lepton_p2p.simulation.swarm import VirtualSwarm

ALL = frozenset(FAULTS)


def test_without_faults_a_swarm_meets_once_and_repeats_nothing_but_for_joins() -> None:
    outcome = run(Plan(3, 5, 5, frozenset()))
    assert not outcome.violation
    assert outcome.rounds > 10
    assert outcome.retried <= outcome.peers**2, "a join may cost every member one attempt"
    assert not outcome.faults


@pytest.mark.parametrize("seed", ["10", "11", "15"], ids=["continue", "majority", "gossip"])
def test_a_seed_tells_the_same_story_in_every_process(seed: str) -> None:
    command = [
        sys.executable,
        "-m",
        "lepton_p2p",
        "simulate",
        "--seed",
        seed,
        "--trace",
        "--peers",
        "6..12",
        "--storm",
        "15",
    ]
    stories = {
        subprocess.run(
            command, env={**os.environ, "PYTHONHASHSEED": hashes}, capture_output=True, check=True, timeout=120
        ).stdout
        for hashes in ("1", "2")
    }
    (story,) = stories
    assert story.count(b"\n") > 100


def test_another_seed_tells_another_story() -> None:
    one, two = (run(Plan(seed, 4, 8, ALL, 15.0)) for seed in (1, 2))
    assert (one.steps, one.faults) != (two.steps, two.faults)


def test_every_kind_of_fault_happens_and_no_other_than_was_asked_for() -> None:
    tally = Tally()
    for outcome in sweep(plans(0, 60, Plan(0, 3, 8, ALL, 15.0)), workers=2):
        tally.add(outcome)
    assert not tally.violations
    assert {*MISHAPS, "loss", "delay", "duplicate", "flip"} <= set(tally.faults)
    only = run(Plan(5, 4, 6, frozenset({"pause"})))
    assert set(only.faults) & set(FAULTS) == {"pause"}


def test_a_machine_that_raises_is_a_broken_invariant_with_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: peer.VirtualPeer, event: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(peer.VirtualPeer, "_swim_event", fail)
    assert run(Plan(1, 3, 3, frozenset())).violation.startswith("no-crash: host-")


def test_a_swarm_that_never_comes_together_again_is_a_broken_invariant(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the first are stopped, and nobody goes on when the network heals."""

    def stop_all(swarm: mishaps.Swarm) -> bool:
        for one in swarm.running()[1:]:
            one.stop()
        return True

    monkeypatch.setitem(MISHAPS, "pause", stop_all)
    monkeypatch.setattr(peer.VirtualPeer, "go_on", lambda self: None)
    names = Counter(run(Plan(seed, 4, 4, frozenset({"pause"}))).violation.partition(":")[0] for seed in range(6))
    assert set(names) <= {"alive-for-good", "views-agree", "liveness"}
    assert names


def test_the_trace_names_who_did_what() -> None:
    lines: list[str] = []
    VirtualSwarm(Plan(2, 3, 3, frozenset({"crash"}), 10.0), lambda when, who, what: lines.append(f"{who} {what}")).run()
    assert any(line.startswith("host-0/") and "starts" in line for line in lines)
    assert any("Installed" in line for line in lines)
    assert any(line.startswith("* heals") for line in lines)
