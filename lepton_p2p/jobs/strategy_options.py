"""The options of the strategies that a job may name; what they do is in ``training/strategies``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from lepton_p2p.models.registry import Registry


@dataclass(frozen=True, slots=True)
class StrategyOptions:
    """Base of all options."""


@dataclass(frozen=True, slots=True)
class AllReduceOptions(StrategyOptions):
    """Synchronous data parallel has nothing to choose."""


@dataclass(frozen=True, slots=True)
class GossipOptions(StrategyOptions):
    """See :func:`gossip`."""

    push_every: int
    blocks: int


STRATEGIES: Registry[StrategyOptions] = Registry("strategy")


@STRATEGIES.add("all_reduce")
def all_reduce() -> StrategyOptions:
    """Synchronous data parallel: one atomic round per step, replicas bit-identical."""
    return AllReduceOptions()


@STRATEGIES.add("gossip")
def gossip(
    *, push_every: Annotated[int, Field(ge=1, le=10_000)] = 4, blocks: Annotated[int, Field(ge=1, le=65_536)] = 256
) -> StrategyOptions:
    """No barrier: every peer at its own speed, averaging parameters with a random live partner.

    push_every: local steps between two pushes; the cost on the wire is (model bytes) / push_every per step, the price
    of pushing seldom is that replicas drift further apart.  blocks: into how many pieces the data set is cut for
    sharding; with N peers a share differs from 1/N by about 1/sqrt(blocks/N) of itself.
    """
    return GossipOptions(push_every, blocks)
