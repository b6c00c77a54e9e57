"""Everybody's contribution to one segment, side by side, and what its owner makes of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import torch

from lepton_p2p.collectives.aggregators import aggregate, is_finite
from lepton_p2p.collectives.buffers import BufferPool
from lepton_p2p.collectives.operations import Array
from lepton_p2p.collectives.sources import Source
from lepton_p2p.rounds.aggregation import Aggregation
from lepton_p2p.rounds.layout import Chunk, Layout

_ALIGN = 64
_VOTE = Aggregation("median")


class Made(NamedTuple):
    """What an owner made of a segment: ``refused`` ranks, and the result as bytes behind the segment's start."""

    refused: frozenset[int]
    values: Array


class Contributions:
    """One row of bytes for each rank of ``layout``; the segment is that of ``rank``, which owns it.

    votes_start: from there on the buffer holds what is voted on.
    Takes as many bytes of ``pool`` as all rows together have, about one whole input; :meth:`give_back` returns them.
    """

    def __init__(self, layout: Layout, rank: int, votes_start: int, pool: BufferPool) -> None:
        self._chunks = layout.segments[rank]
        self._rank, self._pool = rank, pool
        self._start = self._chunks[0].start
        self._nbytes = self._chunks[-1].stop - self._start
        self._stride = -(-self._nbytes // _ALIGN) * _ALIGN
        self._memory = pool.take(len(layout.segments) * self._stride)
        self._view = self._memory.numpy().data
        self._votes = votes_start - self._start
        own, all_bytes = (
            sum(chunk.nbytes for chunk in chunks if chunk.start < votes_start)
            for chunks in (self._chunks, layout.chunks())
        )
        self._share = own / all_bytes if all_bytes else 1.0

    def place(self, rank: int, chunk: Chunk) -> memoryview:
        """Where the contribution of ``rank`` to ``chunk`` belongs."""
        start = rank * self._stride + chunk.start - self._start
        return self._view[start : start + chunk.nbytes]

    def give_back(self) -> None:
        """Nobody writes or reads here any more."""
        self._pool.give(self._memory)

    def make(self, ranks: Sequence[int], source: Source, aggregation: Aggregation) -> Made:
        """The result of ``ranks``, those that say that they contribute; without any (sound one), zeros.

        ``source``: the own input.  Takes its time: for a thread.
        """
        for chunk in self._chunks:
            source.write(chunk.start, chunk.stop, np.frombuffer(self.place(self._rank, chunk), chunk.dtype))
        runs = self._runs()
        refused = frozenset(rank for rank in ranks if not all(is_finite(rows[rank]) for _, rows in runs))
        sound = [rank for rank in ranks if rank not in refused]
        result = torch.zeros(self._nbytes, dtype=torch.uint8)
        if sound:
            for voted, how in ((False, aggregation), (True, _VOTE)):
                some = [(start, _only(rows, sound)) for start, rows in runs if (start >= self._votes) is voted]
                makes = aggregate([rows for _, rows in some], how, share=self._share) if some else []
                for (start, _), made in zip(some, makes, strict=True):
                    result[start : start + made.nbytes].copy_(made.view(torch.uint8))
        return Made(refused, result.numpy())

    def _runs(self) -> list[tuple[int, torch.Tensor]]:
        """Chunks of one dtype that lie together: where they start in the segment, and [ranks, elements] of it."""
        bounds: list[tuple[int, int, str]] = []
        for chunk in self._chunks:
            start, stop = chunk.start - self._start, chunk.stop - self._start
            if bounds and bounds[-1][1:] == (start, chunk.dtype) and start != self._votes:
                bounds[-1] = (bounds[-1][0], stop, chunk.dtype)
            elif stop > start:
                bounds.append((start, stop, chunk.dtype))
        table = self._memory.view(-1, self._stride) if self._stride else self._memory.view(0, 0)
        return [(start, table[:, start:stop].view(getattr(torch, dtype))) for start, stop, dtype in bounds]


def _only(rows: torch.Tensor, ranks: Collection[int]) -> torch.Tensor:
    return rows if len(ranks) == len(rows) else rows[list(ranks)]
