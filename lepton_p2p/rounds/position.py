"""Where a peer is in the sequence of rounds, and what a chunk that arrives has to do with that."""

from __future__ import annotations

from enum import Enum, auto

_NOWHERE = (-1, 0)


class Relation(Enum):
    """Of a chunk to the place where its receiver is."""

    PAST = auto()
    """Nobody waits for it any more."""
    NOW = auto()
    """It belongs to the round that is expected."""
    LATER = auto()
    """Its sender is further on: it has to wait."""


class Position:
    """``(epoch number, epoch tag, round)``, and the round that is expected next, if one is.

    Numbers order the epochs of one lineage.  A peer that leaves its lineage may come into one with lower numbers, so
    that :meth:`leave` forgets them: until the next :meth:`enter` every chunk is of later.
    """

    def __init__(self) -> None:
        self._number, self._tag = _NOWHERE
        self._done = -1
        """Rounds up to this one are over in this epoch, whether they completed or not."""
        self._expected: int | None = None

    def enter(self, number: int, tag: int) -> bool:
        """The epoch is now ``(number, tag)`` and no round is expected; whether it is another one than before."""
        self.forget()
        if (number, tag) == (self._number, self._tag):
            return False
        self._number, self._tag, self._done = number, tag, -1
        return True

    def leave(self) -> None:
        """In no epoch any more."""
        self.enter(*_NOWHERE)

    def expect(self, round: int) -> None:
        """Chunks of ``round`` are wanted; those before it are over."""
        self.forget()
        self._done = max(self._done, round - 1)
        self._expected = round

    def forget(self) -> None:
        """The expected round is over in this epoch."""
        if self._expected is not None:
            self._done = max(self._done, self._expected)
            self._expected = None

    def relation(self, number: int, tag: int, round: int) -> Relation:
        """Of a chunk with these in its header."""
        if number > self._number:
            return Relation.LATER
        if tag != self._tag or round <= self._done:
            return Relation.PAST
        return Relation.NOW if round == self._expected else Relation.LATER
