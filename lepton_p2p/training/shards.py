"""Which samples a peer trains on where nobody keeps count together: rendezvous hashing of blocks over the live view."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import xxhash

from lepton_p2p.identity import PeerId
from lepton_p2p.replication.permutation import permutation


def owner(block: int, peers: Collection[PeerId]) -> PeerId:
    """Highest random weight (Thaler and Ravishankar, 1998): when a peer goes, only its own blocks move."""
    return max(peers, key=lambda peer: (xxhash.xxh3_64_intdigest(f"{block}/{peer}".encode()), peer))


class ShardSampler:
    """Endless batches from this peer's share of ``total`` samples, cut into ``blocks`` blocks.

    Visits its share in a seeded order, pass by pass; when the view changes it goes on from the same place in the order.
    A peer without a block (more peers than blocks) uses all samples.
    """

    def __init__(self, total: int, blocks: int, seed: int, me: PeerId) -> None:
        self._total = total
        self._blocks = min(blocks, total)
        self._seed = seed
        self._me = me
        self._view: frozenset[PeerId] = frozenset()
        self._pass = 0
        self._place = 0
        self._order = permutation(total, seed, 0)
        self._mine: npt.NDArray[np.int64] = np.arange(total)

    @property
    def pass_number(self) -> int:
        return self._pass

    @property
    def turns(self) -> tuple[int, int]:
        """Passes over the share so far, and the place in the order of the current one; ``resume`` takes it."""
        return self._pass, self._place

    def resume(self, turns: tuple[int, int]) -> None:
        """Go on from there."""
        self._pass, self._place = turns
        self._order = permutation(self._total, self._seed, self._pass)
        self._view = frozenset()

    def batch(self, alive: Collection[PeerId], size: int) -> npt.NDArray[np.int64]:
        """The next indices into the data set, 1 to ``size`` of them (a pass's last batch may be short)."""
        self._look_at(frozenset(alive) | {self._me})
        start = int(np.searchsorted(self._mine, self._place))
        if start == len(self._mine):
            self._pass += 1
            self._place = start = 0
            self._order = permutation(self._total, self._seed, self._pass)
            self._mine = self._places()
        places = self._mine[start : start + size]
        self._place = int(places[-1]) + 1
        return self._order[places]

    def _look_at(self, view: frozenset[PeerId]) -> None:
        if view != self._view:
            self._view = view
            self._mine = self._places()

    def _places(self) -> npt.NDArray[np.int64]:
        mine = np.array([owner(block, self._view) == self._me for block in range(self._blocks)])
        if not mine.any():
            mine[:] = True
        return np.flatnonzero(mine[self._order * self._blocks // self._total])
