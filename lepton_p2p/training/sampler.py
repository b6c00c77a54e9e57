"""From places in a pass's permutation to the samples of a data set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lepton_p2p.replication.cursor import Cursor
from lepton_p2p.replication.permutation import permutation
from lepton_p2p.replication.ranges import Range


class Sampler:
    """Which samples a claim means: the permutation of the current pass, computed once per pass.

    ``shuffle=False``: every pass in the order of the data set.
    """

    def __init__(self, *, shuffle: bool = True) -> None:
        self._shuffle = shuffle
        self._key: tuple[int, int, int] | None = None
        self._order: npt.NDArray[np.int64] = np.empty(0, np.int64)

    def samples(self, cursor: Cursor, claim: Sequence[Range]) -> npt.NDArray[np.int64]:
        """Indices into the data set, int64, in the order of ``claim``."""
        key = (cursor.total, cursor.seed, cursor.pass_number)
        if key != self._key:
            self._key = key
            self._order = permutation(*key) if self._shuffle else np.arange(cursor.total, dtype=np.int64)
        return np.concatenate([np.empty(0, np.int64), *(self._order[item.start : item.stop] for item in claim)])
