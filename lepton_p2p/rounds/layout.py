"""How a flat buffer is cut into segments (one per rank) and chunks (what travels at once)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

_ALIGN = 64
CHUNK_BYTES = 1 << 20
"""Default bound on a chunk: large enough that a header costs nothing, small enough to be reduced while in cache."""


@dataclass(frozen=True, slots=True)
class Group:
    """Bytes ``start`` to ``stop`` of the flat buffer hold elements of ``dtype`` with ``itemsize`` bytes each."""

    dtype: str
    itemsize: int
    start: int
    stop: int

    def __post_init__(self) -> None:
        if self.itemsize < 1 or not 0 <= self.start <= self.stop or (self.stop - self.start) % self.itemsize:
            raise ValueError(f"not a group of whole elements: {self}")


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes ``start`` to ``stop`` of the buffer: number ``index`` of ``segment``, all of one ``dtype``."""

    segment: int
    index: int
    start: int
    stop: int
    dtype: str

    @property
    def nbytes(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Layout:
    """``segments[s]`` are the chunks of segment s, at least one each (empty, if need be, to carry the records).

    ``total``: size of the buffer in bytes; what lies between groups (alignment) belongs to no chunk.
    """

    total: int
    segments: tuple[tuple[Chunk, ...], ...]

    @classmethod
    def even(cls, groups: Sequence[Group], world: int, *, chunk_bytes: int = CHUNK_BYTES) -> Layout:
        """Cut ``groups`` (ascending, disjoint) into ``world`` segments of nearly equal size, for an all-reduce.

        No element is split, no chunk spans two groups; all cuts are multiples of 64 bytes from the group's start.
        """
        return _even(tuple(groups), world, chunk_bytes)

    @classmethod
    def slots(cls, sizes: Sequence[int], *, chunk_bytes: int = CHUNK_BYTES) -> Layout:
        """Segment r is the ``sizes[r]`` bytes of rank r, one after the other, for an all-gather.

        A broadcast is an all-gather in which all sizes but the root's are 0.
        """
        groups = []
        start = 0
        for size in sizes:
            groups.append(Group("uint8", 1, start, start + size))
            start += size
        _check(groups, chunk_bytes)
        return cls(start, tuple(_chunks(rank, [group], chunk_bytes) for rank, group in enumerate(groups)))

    @property
    def payload(self) -> int:
        """Bytes in chunks."""
        return sum(chunk.nbytes for chunk in self.chunks())

    def chunks(self) -> Iterator[Chunk]:
        """All chunks in the order of the buffer: the order in which a result is digested."""
        for segment in self.segments:
            yield from segment


def _check(groups: Sequence[Group], chunk_bytes: int) -> None:
    if chunk_bytes < _ALIGN:
        raise ValueError(f"a chunk has at least {_ALIGN} bytes, not {chunk_bytes}")
    if any(left.stop > right.start for left, right in pairwise(groups)):
        raise ValueError("groups must be ascending and disjoint")


def _between(groups: Sequence[Group], low: int, high: int) -> list[Group]:
    """The part of ``groups`` between payload offsets ``low`` and ``high``, cut down to whole elements."""
    parts = []
    offset = 0
    for group in groups:
        size = group.stop - group.start
        first, last = _cut(low - offset, size), _cut(high - offset, size)
        if last > first:
            parts.append(Group(group.dtype, group.itemsize, group.start + first, group.start + last))
        offset += size
    return parts


@lru_cache(maxsize=16)
def _even(groups: tuple[Group, ...], world: int, chunk_bytes: int) -> Layout:
    """See ``Layout.even``: the same one again for the same tensors, round after round."""
    _check(groups, chunk_bytes)
    total = max((group.stop for group in groups), default=0)
    payload = sum(group.stop - group.start for group in groups)
    cuts = [payload * rank // world for rank in range(world + 1)]
    parts = [_between(groups, cuts[rank], cuts[rank + 1]) for rank in range(world)]
    return Layout(total, tuple(_chunks(rank, parts[rank], chunk_bytes) for rank in range(world)))


def _cut(position: int, size: int) -> int:
    """The aligned place at or before ``position``; the ends of a group stay where they are."""
    return size if position >= size else max(position, 0) // _ALIGN * _ALIGN


def _chunks(segment: int, parts: Sequence[Group], chunk_bytes: int) -> tuple[Chunk, ...]:
    chunks: list[Chunk] = []
    for part in parts:
        size = part.stop - part.start
        count = max(1, -(-size // (chunk_bytes // _ALIGN * _ALIGN)))
        stride = max(1, -(-size // (count * _ALIGN))) * _ALIGN
        cuts = [*range(part.start, part.stop, stride), part.stop]
        for start, stop in pairwise(cuts):
            chunks.append(Chunk(segment, len(chunks), start, stop, part.dtype))
    if not chunks:
        start = parts[0].start if parts else 0
        chunks.append(Chunk(segment, 0, start, start, parts[0].dtype if parts else "uint8"))
    return tuple(chunks)
