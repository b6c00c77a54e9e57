"""Whole seeds of swarms that gossip."""

from __future__ import annotations

import pytest

from lepton_p2p.gossip import account, push_sum
from lepton_p2p.identity import PeerId
from lepton_p2p.simulation.campaign import Tally, plans, run, sweep
from lepton_p2p.simulation.gossip_swarm import GossipSwarm, swarm_of
from lepton_p2p.simulation.mishaps import FAULTS
from lepton_p2p.simulation.plan import Plan

ALL = frozenset(FAULTS)


def plan(seed: int, fewest: int = 3, most: int = 8, kinds: frozenset[str] = ALL, storm: float = 15.0) -> Plan:
    return Plan(seed, fewest, most, kinds, storm, "gossip")


def test_without_faults_shares_change_hands_and_nothing_is_lost() -> None:
    outcome = run(plan(3, 5, 5, frozenset()))
    assert not outcome.violation
    assert outcome.moved > 20
    assert (outcome.died, outcome.lost) == (0, 0)


def test_mass_is_conserved_whatever_happens() -> None:
    tally = Tally()
    for outcome in sweep(plans(0, 40, plan(0)), workers=2):
        tally.add(outcome)
    assert not tally.violations
    assert tally.gossips == tally.seeds
    assert min(tally.moved, tally.returned, tally.died, tally.lost, tally.voided) > 0, "all of it has happened"


def test_a_founder_that_is_left_behind_before_it_begins_has_the_only_weight() -> None:
    """Seed 39: all were started again, and the founder was taken for dead for a moment, before its model was made."""
    assert not run(Plan(39, 3, 16, ALL)).violation


def test_both_sides_of_a_split_keep_what_they_did() -> None:
    """Every one of them was believed dead by somebody, and one side was dropped by the other."""
    outcomes = [run(plan(seed, 4, 6, frozenset({"split"}), 30.0)) for seed in range(8)]
    assert not any(outcome.violation for outcome in outcomes)
    assert sum(outcome.faults["split"] for outcome in outcomes) > 8
    assert sum(outcome.voided for outcome in outcomes) <= 2, "only what had been founded apart was given up"


def test_every_eighth_seed_gossips() -> None:
    both = Plan(0, 3, 4, ALL, strategy="both")
    assert [isinstance(swarm_of(both.of(seed)), GossipSwarm) for seed in (6, 7, 8, 15)] == [False, True, False, True]
    assert not isinstance(swarm_of(Plan(7, 3, 4, ALL)), GossipSwarm)


def test_a_share_that_is_given_although_it_came_back_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    give = push_sum.Ledger.give

    def give_again(self: push_sum.Ledger, partner: PeerId, number: int, hold: int) -> bool:
        return give(self, partner, number, hold) or number not in self._given

    monkeypatch.setattr(push_sum.Ledger, "give", give_again)
    assert any(run(plan(seed)).violation.startswith("mass-conserved") for seed in range(10))


def test_a_swarm_in_which_newcomers_get_no_weight_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account.Account, "arrived", lambda self, transfer: None)
    assert run(plan(1, 3, 3, frozenset())).violation.startswith("liveness")
