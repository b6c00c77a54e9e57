"""Safety mechanisms, each switched off by a function: what ``scripts/mutation_check.py`` tries."""

from mutants import gossip, membership, rounds, training
from mutants.catalogue import GOSSIP, MUTANTS

__all__ = ["GOSSIP", "MUTANTS", "gossip", "membership", "rounds", "training"]
