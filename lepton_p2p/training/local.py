"""A swarm of one: what training alone runs on, and the reference that the swarm is compared with."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from types import MappingProxyType

import torch
import xxhash
from torch import Tensor

from lepton_p2p.collectives.aggregators import aggregate
from lepton_p2p.errors import StateLost
from lepton_p2p.identity import PeerId
from lepton_p2p.rounds.aggregation import Aggregation
from lepton_p2p.rounds.result import RoundResult
from lepton_p2p.training.snapshots import Snapshot
from lepton_p2p.training.state import Schema, raw


class LocalCollective:
    """Rounds with one member: the mean is the input, unless it is not finite; so are most things in its place."""

    def __init__(self, me: PeerId | None = None) -> None:
        self.me = me or PeerId("0" * 32)
        self._round = 0

    def members(self) -> tuple[PeerId, ...]:
        return (self.me,)

    def state_begins(self, work: int) -> None:
        """There is no other lineage."""

    def state_holds(self, work: int) -> None:
        """There is none."""

    def all_reduce(
        self,
        tensors: Sequence[Tensor],
        *,
        op: str = "mean",
        weight: float = 1.0,
        note: bytes = b"",
        state_digest: int = 0,
        aggregation: Aggregation | None = None,
    ) -> RoundResult:
        self._round += 1
        finite = all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
        contributes = finite and weight > 0
        if contributes and aggregation is not None:
            gradients = tensors[: len(tensors) - aggregation.votes]
            parts = [tensor.detach().reshape(1, -1) for tensor in gradients]
            for tensor, made in zip(gradients, aggregate(parts, aggregation), strict=True):
                tensor.copy_(made.view(tensor.shape))
        digest = xxhash.xxh3_64()
        for tensor in tensors:
            digest.update(raw(tensor).numpy().data)
        return RoundResult(
            epoch=1,
            round=self._round,
            attempts=1,
            members=(self.me,),
            contributors=(self.me,) if contributes else (),
            refused=() if finite else (self.me,),
            newcomers=(self.me,) if self._round == 1 else (),
            lost=(),
            total_weight=weight if contributes else 0.0,
            digest=digest.intdigest(),
            notes=MappingProxyType({self.me: note}),
        )


class NoStateSource:
    """There is nobody to fetch from."""

    def fetch(self, round: int, schema: Schema, cancelled: threading.Event) -> Snapshot:
        raise StateLost(f"there is no other peer that could have the state after round {round}")
