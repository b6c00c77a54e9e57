"""The options of the strategies that a job may name; what they do is in ``training/strategies``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from lepton_p2p.models.registry import Registry
from lepton_p2p.rounds.aggregation import LARGEST, MAX_ITERATIONS, MAX_TRIM, Aggregation


@dataclass(frozen=True, slots=True)
class StrategyOptions:
    """Base of all options."""


@dataclass(frozen=True, slots=True)
class AllReduceOptions(StrategyOptions):
    """See :func:`all_reduce`; None: the mean."""

    aggregation: Aggregation | None = None


@dataclass(frozen=True, slots=True)
class GossipOptions(StrategyOptions):
    """See :func:`gossip`."""

    push_every: int
    blocks: int


STRATEGIES: Registry[StrategyOptions] = Registry("strategy")


@STRATEGIES.add("all_reduce")
def all_reduce(
    *,
    aggregation: Literal["mean", "clip", "trimmed_mean", "median", "centered_clip"] = "mean",
    trim: Annotated[int, Field(ge=1, le=MAX_TRIM)] | None = None,
    norm: Annotated[float, Field(gt=0, le=LARGEST)] | None = None,
    radius: Annotated[float, Field(gt=0, le=LARGEST)] | None = None,
    iterations: Annotated[int, Field(ge=1, le=MAX_ITERATIONS)] | None = None,
) -> StrategyOptions:
    """Synchronous data parallel: one atomic round per step, replicas bit-identical.

    aggregation: what stands in the place of the mean of all gradients, so that a few peers that send wrong ones do not
    decide it; every peer's gradient counts once then, whatever its number of samples.  trim: of trimmed_mean, the
    number of poisoners that it withstands (default 1).  norm: of clip, the length above which a gradient is scaled down
    (default: the median of all lengths).  radius, iterations: of centered_clip (default: the median of the distances
    from the median; 3).  docs/robust-aggregation.md says what they cost and what they are worth.
    """
    given: dict[str, Any] = {"trim": trim, "norm": norm, "radius": radius, "iterations": iterations}
    if aggregation != "mean":
        return AllReduceOptions(Aggregation(aggregation, **given))
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"{name} is an option of a robust aggregation, not of the mean: leave it out")
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
