"""Where a peer's own numbers come from during an attempt, chunk by chunk.

Reading the caller's tensors while their turn comes saves a copy of everything: what is read is combined with a chunk
that is in cache anyway.  Retries read the same tensors again, which is why they must not change until the round is
decided.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lepton_p2p.collectives.operations import Array, Op, combine
from lepton_p2p.rounds.layout import CHUNK_BYTES


class Source(Protocol):
    """A peer's input as typed bytes ``start`` to ``stop`` of the flat buffer; all of one group, elements whole."""

    nbytes: int

    def view(self, start: int, stop: int) -> memoryview | None:
        """The own values where they lie, as bytes, if they lie in one place and go out as they are."""

    def write(self, start: int, stop: int, into: Array) -> None:
        """``into`` (of the group's dtype) becomes the own values."""

    def fold(self, op: Op, start: int, stop: int, arrived: Array, out: Array) -> None:
        """``out`` (which may be ``arrived``) becomes the reduction of ``arrived`` and the own values."""


class FlatSource:
    """A flat uint8 array that holds the values as they are."""

    def __init__(self, flat: Array) -> None:
        self.nbytes = flat.nbytes
        self._flat = flat

    def view(self, start: int, stop: int) -> memoryview | None:
        return self._flat.data[start:stop]

    def write(self, start: int, stop: int, into: Array) -> None:
        into[:] = self._flat[start:stop].view(into.dtype)

    def fold(self, op: Op, start: int, stop: int, arrived: Array, out: Array) -> None:
        combine(op, arrived, self._flat[start:stop].view(arrived.dtype), out)


class IdentitySource:
    """Contributes nothing: the identity of ``op`` everywhere."""

    def __init__(self, op: Op, nbytes: int) -> None:
        self.nbytes = nbytes
        self._op = op

    def view(self, start: int, stop: int) -> memoryview | None:
        return None

    def write(self, start: int, stop: int, into: Array) -> None:
        into.fill(identity(self._op, into.dtype))

    def fold(self, op: Op, start: int, stop: int, arrived: Array, out: Array) -> None:
        if out is not arrived:
            out[:] = arrived


@dataclass(frozen=True, slots=True)
class Piece:
    """A one-dimensional array whose first byte lies at ``start`` of the flat buffer."""

    start: int
    values: Array


class PiecesSource:
    """Arrays that lie one after the other in the flat buffer, multiplied by ``weight`` on the way."""

    def __init__(self, pieces: Sequence[Piece], nbytes: int, weight: float = 1.0) -> None:
        self.nbytes = nbytes
        self._pieces = sorted((piece for piece in pieces if piece.values.size), key=lambda piece: piece.start)
        self._starts = [piece.start for piece in self._pieces]
        self._weight = weight
        self._scratch: Array = np.empty(CHUNK_BYTES if weight != 1.0 else 0, np.uint8)

    def view(self, start: int, stop: int) -> memoryview | None:
        if self._weight != 1.0 or start == stop:
            return None
        piece = self._pieces[max(0, bisect_right(self._starts, start) - 1)]
        if start < piece.start or stop > piece.start + piece.values.nbytes:
            return None
        return piece.values.view(np.uint8).data[start - piece.start : stop - piece.start]

    def write(self, start: int, stop: int, into: Array) -> None:
        for begin, end, own in self._overlaps(start, stop, into.itemsize):
            if self._weight == 1.0:
                into[begin:end] = own
            else:
                np.multiply(own, own.dtype.type(self._weight), out=into[begin:end])

    def fold(self, op: Op, start: int, stop: int, arrived: Array, out: Array) -> None:
        for begin, end, own in self._overlaps(start, stop, arrived.itemsize):
            if self._weight != 1.0:
                if self._scratch.nbytes < own.nbytes:
                    self._scratch = np.empty(own.nbytes, np.uint8)
                weighted = self._scratch[: own.nbytes].view(own.dtype)
                own = np.multiply(own, own.dtype.type(self._weight), out=weighted)
            combine(op, arrived[begin:end], own, out[begin:end])

    def _overlaps(self, start: int, stop: int, size: int) -> list[tuple[int, int, Array]]:
        """The own values in ``start`` to ``stop``: first and last element (of ``size`` bytes) there, and values."""
        found: list[tuple[int, int, Array]] = []
        for number in range(max(0, bisect_right(self._starts, start) - 1), len(self._pieces)):
            piece = self._pieces[number]
            low, high = max(start, piece.start), min(stop, piece.start + piece.values.nbytes)
            if piece.start >= stop:
                break
            if low < high:
                own = piece.values[(low - piece.start) // size : (high - piece.start) // size]
                found.append(((low - start) // size, (high - start) // size, own))
        return found


def identity(op: Op, dtype: np.dtype[np.generic]) -> float:
    """The value that changes nothing when reduced with any other."""
    if op in (Op.SUM, Op.MEAN):
        return 0
    if dtype.kind == "f":
        return -np.inf if op is Op.MAX else np.inf
    info = np.iinfo(dtype.type)  # type: ignore[type-var]
    return info.min if op is Op.MAX else info.max
