"""The data loader that a program's own loop sees: this peer's share of every pass, whoever comes and goes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch.utils.data import default_collate

from lepton_p2p.training.plain import PlainTraining

Collate = Callable[[list[Any]], Any]


class SizedDataset(Protocol):
    """A map-style data set, the same on all peers."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class SwarmLoader:
    """``for batch in loader`` goes through what is left of the current pass over ``dataset`` and ends with it.

    Which samples belong to this peer is decided step by step, from the data cursor that is part of the replicated
    state: in every pass each sample is used exactly once by the swarm, and what a lost peer had not used goes to the
    others.  Every batch must be followed by one ``optimizer.step()``.  A batch has up to ``batch_size`` samples,
    fewer at the end of a pass.  The first batch comes when this peer holds the swarm's state.

    A ``break`` leaves the pass where it is: the next iteration goes on with it.  Samples are fetched in the calling
    thread, with ``dataset.__getitems__`` if there is one.
    """

    def __init__(
        self,
        training: Callable[[], PlainTraining],
        dataset: SizedDataset,
        batch_size: int,
        *,
        collate_fn: Collate | None = None,
    ) -> None:
        self._training = training
        self.dataset = dataset
        self.batch_size = batch_size
        self._collate = collate_fn or default_collate

    def __iter__(self) -> Iterator[Any]:
        training = self._training()
        turn = training.begin_turn()
        while (index := training.draw(turn)) is not None:
            yield self._collate(self._fetch(index))

    def __len__(self) -> int:
        """Batches of a whole pass for this peer, if the swarm stays as large as it is now: an estimate."""
        return math.ceil(len(self.dataset) / (self.batch_size * self._training().peers()))

    def passes(self, count: int) -> Iterator[int]:
        """``for number in loader.passes(count)``: the passes (from 0) that the *swarm* has not completed yet.

        Peers that started at different times so end together, after ``count`` passes over the data in all;
        ``range(count)`` instead lets each peer do so many.  At the end it waits until newcomers have the state.
        """
        training = self._training()
        while True:
            training.enter()
            before = training.cursor
            if before.pass_number >= count:
                break
            yield before.pass_number
            if training.cursor == before:
                raise RuntimeError("iterate over the loader inside of loader.passes(), otherwise it never ends")
        training.finish()

    def _fetch(self, index: npt.NDArray[np.int64]) -> list[Any]:
        several = getattr(self.dataset, "__getitems__", None)
        if several is not None:
            return list(several(index.tolist()))
        return [self.dataset[number] for number in index.tolist()]
