"""What the benchmark of membership counts, on swarms that are small enough to be looked at."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from membership import measure
from virtual_members import KILLS_FROM, Plan, VirtualMembers

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "membership.py"
PLAN = Plan(peers=30, seconds=60.0, kills=3, loss=0.0, preset="lan", seed=7)


def test_a_grown_swarm_knows_itself_and_has_nothing_to_tell() -> None:
    swarm = VirtualMembers(PLAN)
    everybody = sorted(member.swim.me for member in swarm.members.values())
    swarm.scheduler.run(KILLS_FROM * PLAN.seconds)
    for member in swarm.members.values():
        assert [view.peer for view in member.swim.members] == everybody
    assert set(swarm.seen.packets) == {"Ping", "Ack", "Sync"}


def test_a_grown_swarm_exchanges_at_its_usual_pace_from_the_beginning() -> None:
    swarm = VirtualMembers(PLAN)
    asked_and_answered = 2 * PLAN.peers / 30.0  # SwimConfig.sync_interval, below 32 members
    for seconds in range(10, 150, 10):
        swarm.scheduler.run(seconds)
        assert swarm.seen.packets["Sync"] == pytest.approx(seconds * asked_and_answered, rel=0.5)


def test_every_survivor_finds_every_victim_and_nobody_else() -> None:
    swarm = VirtualMembers(PLAN)
    seen = swarm.run()
    assert sum(member.alive for member in swarm.members.values()) == 27
    assert len(seen.delays) == 3 * 27
    assert seen.missed == seen.false_deaths == seen.false_suspicions == seen.mistaken == 0
    assert len(seen.first) == len(seen.last) == 3
    # A suspect has at least four times log10(30) seconds to refute, and all talk to each other within two seconds.
    assert min(seen.first) > 4 * 1.47
    assert min(seen.delays) == min(seen.first)
    assert max(seen.delays) == max(seen.last) < max(seen.first) + 2.0


def test_whoever_runs_and_is_believed_dead_is_counted_at_each_that_believes_it() -> None:
    swarm = VirtualMembers(replace(PLAN, kills=0))
    (mute, *others) = swarm.members
    swarm.network.cut([mute], others)
    seen = swarm.run()
    assert seen.mistaken >= 1
    # The others are wrong about it, and it about all those that never answered.
    assert seen.false_deaths >= len(others)
    assert seen.false_suspicions >= len(others)
    assert seen.delays == []


def test_time_is_counted_for_members_that_run() -> None:
    plan = replace(PLAN, kills=1)
    seen = VirtualMembers(plan).run()
    assert seen.member_seconds == pytest.approx(29 * 60.0 + KILLS_FROM * 60.0)
    assert seen.quiet_member_seconds == pytest.approx(30 * KILLS_FROM * 60.0)


def test_what_cannot_be_connected_costs_no_bytes() -> None:
    swarm = VirtualMembers(replace(PLAN, kills=0))
    for member in list(swarm.members.values())[1:]:
        swarm.kill(member)
    swarm.scheduler.run(60.0)
    assert sum(swarm.seen.bytes.values()) == 0


def test_loss_is_seen_and_survived() -> None:
    quiet = replace(PLAN, kills=0)
    assert VirtualMembers(quiet).run().packets["PingRequest"] == 0
    assert VirtualMembers(replace(quiet, loss=0.1)).run().packets["PingRequest"] > 0
    seen = VirtualMembers(replace(PLAN, loss=0.1)).run()
    assert seen.missed == seen.false_deaths == 0


def test_a_seed_stands_for_one_run_and_swarms_have_seeds_of_their_own() -> None:
    plan = replace(PLAN, loss=0.1)
    one, other = measure(replace(plan, swarms=2)), measure(replace(plan, swarms=2))
    assert one == other
    each = [VirtualMembers(replace(plan, seed=seed)).run() for seed in (7, 8)]
    assert one.member_hours * 3600 == pytest.approx(sum(seen.member_seconds for seen in each))
    assert one.last == max(max(seen.last) for seen in each)
    sent = sum(seen.bytes["Gossip"] for seen in each)
    assert one.bytes["Gossip"] * one.member_hours * 3600 == pytest.approx(sent)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"peers": 2, "kills": 0}, "3 to 10000 members"),
        ({"peers": 10_001}, "3 to 10000 members"),
        ({"kills": 29}, "0 to 28"),
        ({"kills": -1}, "0 to 28"),
        ({"loss": 1.0}, "lost calls"),
        ({"seconds": float("inf")}, "--seconds"),
        ({"swarms": 0}, "--swarms"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_in_one_line(change: dict[str, object], word: str) -> None:
    with pytest.raises(ValueError, match=word) as refusal:
        replace(PLAN, **change)  # type: ignore[arg-type]
    assert "\n" not in str(refusal.value)


def test_the_command_prints_a_table_and_writes_what_it_measured(tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    options = ["--peers", "20", "--seconds", "60", "--kills", "2", "--loss", "0", "--json", str(found)]
    run = subprocess.run(
        [sys.executable, str(SCRIPT), *options], capture_output=True, text=True, check=True, timeout=50
    )
    assert "all know" in run.stdout
    written = json.loads(found.read_text())
    assert written["commit"]
    (row,) = written["rows"]
    assert row["plan"]["peers"] == 20
    assert row["missed"] == 0
    assert row["last"] >= row["median"] >= row["first"] > 4.0


def test_where_claims_are_signed_the_same_is_found_with_more_bytes() -> None:
    open_, signed = (VirtualMembers(replace(PLAN, signed=each)).run() for each in (False, True))
    assert len(signed.delays) == 3 * 27
    assert signed.missed == signed.false_deaths == 0
    assert signed.quiet_bytes["Sync"] > 1.5 * open_.quiet_bytes["Sync"]
    assert signed.quiet_bytes["Ping"] == open_.quiet_bytes["Ping"], "an idle swarm's probes tell nothing"
    assert signed.signatures["sign"] >= 3
    assert signed.signatures["verify"] >= 3 * 26, "each victim's accusation, by every member"
