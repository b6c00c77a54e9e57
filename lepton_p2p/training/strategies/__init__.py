"""Strategies: how replicas are kept together.  Importing this package registers them."""

from lepton_p2p.training.strategies.all_reduce import AllReduce
from lepton_p2p.training.strategies.base import Context, Report, Strategy, make_strategy, strategy
from lepton_p2p.training.strategies.gossip import Gossip

__all__ = ["AllReduce", "Context", "Gossip", "Report", "Strategy", "make_strategy", "strategy"]
