"""What a training loop does about checkpoints: start from one, and look after the next between two steps."""

from __future__ import annotations

from collections.abc import Callable

from lepton_p2p.training.checkpoints.keeper import Keeper
from lepton_p2p.training.checkpoints.record import Place
from lepton_p2p.training.snapshots import Snapshot


class Upkeep:
    """Used by the training thread.  Without ``keeper`` nothing is written.

    recalled: the checkpoint to start from, if the training starts with this peer; ``on_resumed`` is called when it did.
    """

    def __init__(
        self,
        keeper: Keeper | None = None,
        recalled: Snapshot | None = None,
        on_resumed: Callable[[], None] | None = None,
    ) -> None:
        self._keeper = keeper
        self._recalled = recalled
        self._on_resumed = on_resumed if recalled is not None else None

    def recall(self) -> Snapshot | None:
        """The checkpoint to start from; once, since it is as large as the state itself and must not be kept."""
        recalled, self._recalled = self._recalled, None
        return recalled

    def begin(self, place: Place) -> None:
        """What was recalled is that of ``place``."""
        if self._keeper is not None:
            self._keeper.begin(place)

    def between_steps(self, place: Place, capture: Callable[[], Snapshot], *, founded: bool) -> None:
        """This peer holds the swarm's state, of ``place``: note it, and begin a checkpoint if one is due.

        ``founded``: whether the training started with this peer.
        """
        if self._on_resumed is not None:
            if founded:
                self._on_resumed()
            self._on_resumed = None
        if self._keeper is not None:
            self._keeper.noted(place)
            if self._keeper.due(place):
                self._keeper.take(capture(), place)

    def end(self, place: Place, capture: Callable[[], Snapshot], *, patience: float | None) -> None:
        """One more checkpoint at the end; ``patience``: seconds to wait for one that is being written (None: all)."""
        if self._keeper is not None:
            self._keeper.take_last(capture, place, patience=patience)
