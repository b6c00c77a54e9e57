"""What an attempt does with numbers: the own ones, partial sums, the result, and their checksums."""

from __future__ import annotations

import struct

import numpy as np
import torch

from lepton_p2p.collectives.operations import Array, Op, sound
from lepton_p2p.collectives.outcome import combined_digest
from lepton_p2p.collectives.sources import Source
from lepton_p2p.rounds.layout import Chunk, Layout
from lepton_p2p.transport.links.frames import checksum


class Workbench:
    """The input ``source``, never written, and ``work``, which becomes the result: flat uint8 in ``layout``.

    source: the whole buffer (``layout.total`` bytes) if ``op`` reduces, otherwise only the segment of ``rank``.
    ``divisor``: what a mean is divided by when a chunk is final (None: nothing).
    """

    def __init__(self, layout: Layout, rank: int, op: Op, source: Source, work: torch.Tensor) -> None:
        own = layout.segments[rank]
        need = layout.total if op.reduces else sum(chunk.nbytes for chunk in own)
        if source.nbytes != need or work.numel() != layout.total:
            raise ValueError(
                f"source and work have {source.nbytes} and {work.numel()} bytes, not {need} and {layout.total}"
            )
        self.divisor: float | None = None
        self._layout, self._op, self._source = layout, op, source
        self._shift = 0 if op.reduces else own[0].start
        self._work: Array = work.numpy()
        self._view = self._work.data
        self._checksums = [[0] * len(chunks) for chunks in layout.segments]

    def place(self, chunk: Chunk) -> memoryview:
        """Where ``chunk`` of the result lies."""
        return self._view[chunk.start : chunk.stop]

    def own(self, chunk: Chunk) -> memoryview | None:
        """The own values where they lie, if they lie in one place and go out as they are."""
        return self._source.view(chunk.start, chunk.stop) if self._op.reduces else None

    def write_own(self, chunk: Chunk, into: memoryview) -> None:
        """``into`` becomes the own values."""
        self._source.write(chunk.start - self._shift, chunk.stop - self._shift, np.frombuffer(into, chunk.dtype))

    def fold(self, chunk: Chunk, arrived: memoryview, into: memoryview, *, final: bool) -> bool:
        """``into`` becomes what has ``arrived`` and the own values together; False if what arrived is not sound."""
        values = np.frombuffer(arrived, chunk.dtype)
        if not sound(self._op, values):
            return False
        out = values if into is arrived else np.frombuffer(into, chunk.dtype)
        self._source.fold(self._op, chunk.start, chunk.stop, values, out)
        if final:
            self._divide(out)
        return True

    def fill_alone(self) -> None:
        """With nobody else the own values are the result."""
        for chunk in self._layout.chunks():
            self.write_own(chunk, self.place(chunk))
            self._divide(self._work[chunk.start : chunk.stop].view(chunk.dtype))
            self.hash(chunk)

    def hash(self, chunk: Chunk) -> int:
        """``chunk`` is final where it lies: note its checksum."""
        digest = checksum(self.place(chunk))
        self.note(chunk, digest)
        return digest

    def note(self, chunk: Chunk, digest: int) -> None:
        """``chunk`` is final and has this checksum."""
        self._checksums[chunk.segment][chunk.index] = digest

    def noted(self, chunk: Chunk) -> int:
        """The checksum that was noted of ``chunk``."""
        return self._checksums[chunk.segment][chunk.index]

    def told(self, segment: int, first: int, last: int) -> int:
        """The checksum of the checksums of chunks ``first`` to ``last``: what is told of chunks that do not travel."""
        digests = self._checksums[segment][first : last + 1]
        return checksum(struct.pack(f"!{len(digests)}Q", *digests))

    def digest(self) -> int:
        """The result's (see ``result_digest``)."""
        return combined_digest([one for row in self._checksums for one in row], self._layout.total)

    def _divide(self, values: Array) -> None:
        if self._op is Op.MEAN and self.divisor is not None and values.size:
            with np.errstate(all="ignore"):
                np.divide(values, values.dtype.type(self.divisor), out=values)
