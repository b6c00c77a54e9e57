"""How long members that have lost the training's state wait for somebody who may still hold it."""

from __future__ import annotations

PATIENCE = 30.0
"""Seconds.  Longer than a stalled machine or a short cut in the network needs to be back; shorter than a person waits
for an error.  Costs only waiting: there is nothing to compute without the state."""


class Vigil:
    """Begins when nobody in the epoch holds the state, ends when somebody does.

    What the others say that they have waited counts as well (it travels in their notes), so that all give up together:
    if each went when its own time is over, those that come back would find the rest still waiting, for ever.
    """

    def __init__(self, patience: float | None = None) -> None:
        self._patience = PATIENCE if patience is None else patience
        self._since: float | None = None

    @property
    def begun(self) -> bool:
        """Whether it is kept now."""
        return self._since is not None

    def waited(self, now: float) -> int:
        """Whole seconds since it began; 0 if there is none."""
        return 0 if self._since is None else max(0, int(now - self._since))

    def keep(self, now: float, others: int) -> bool:
        """Nobody holds the state; ``others``: the longest that any member has waited.  Whether that was long enough."""
        since = now if self._since is None else self._since
        self._since = min(since, now - others)
        return now - self._since >= self._patience

    def end(self) -> None:
        """Somebody holds it."""
        self._since = None
