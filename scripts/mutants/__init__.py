"""Safety mechanisms, each switched off by a function: what ``scripts/mutation_check.py`` tries."""

from mutants import gossip, majority, membership, rounds, training
from mutants.catalogue import KINDS, MUTANTS

__all__ = ["KINDS", "MUTANTS", "gossip", "majority", "membership", "rounds", "training"]
