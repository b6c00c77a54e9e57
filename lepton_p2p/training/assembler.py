"""Putting a snapshot together from chunks that come from several members, in any order."""

from __future__ import annotations

import hashlib

import torch

from lepton_p2p.errors import IntegrityError
from lepton_p2p.training.manifest import Manifest
from lepton_p2p.training.snapshots import Snapshot
from lepton_p2p.training.state import Schema

MAX_WEIGHTS = 64 << 30
"""Bytes that a client without a schema accepts by default."""


class Assembler:
    """Memory for one snapshot, allocated only after the manifest is found consistent and within bounds.

    ``schema``: of the joiner's own model and optimizer; without it (a client that exports weights) ``max_bytes`` is the
    only bound.  Raises :class:`IntegrityError` or :class:`SchemaMismatch`.
    """

    def __init__(self, manifest: Manifest, schema: Schema | None = None, *, max_bytes: int = MAX_WEIGHTS) -> None:
        manifest.check()
        if schema is not None:
            schema.check(manifest.tensors)
        if manifest.total_bytes > max_bytes:
            raise IntegrityError(
                f"a snapshot of {manifest.total_bytes} bytes was announced; at most {max_bytes} are taken"
            )
        self.manifest = manifest
        self._image = torch.zeros(manifest.total_bytes, dtype=torch.uint8)
        self._memory = self._image.numpy().data
        self._missing = set(range(len(manifest.chunk_digests)))

    @property
    def missing(self) -> tuple[int, ...]:
        """Numbers of the chunks that have not been verified, ascending."""
        return tuple(sorted(self._missing))

    @property
    def complete(self) -> bool:
        return not self._missing

    def buffer(self, index: int) -> memoryview:
        """Where chunk ``index`` belongs, writable: receive straight into it, then call ``verify``."""
        if index not in self._missing:
            raise ValueError(f"chunk {index} is not missing")
        offset, length = self.manifest.span(index)
        return self._memory[offset : offset + length]

    def verify(self, index: int) -> None:
        """Accept what is in ``buffer(index)``; :class:`IntegrityError` (and still missing) if its digest is wrong."""
        if hashlib.sha256(self.buffer(index)).digest() != self.manifest.chunk_digests[index]:
            raise IntegrityError(f"chunk {index} of the snapshot of round {self.manifest.round} has a wrong digest")
        self._missing.discard(index)

    def add(self, index: int, data: bytes | memoryview) -> None:
        """``verify`` for bytes that lie elsewhere."""
        buffer = self.buffer(index)
        if len(data) != len(buffer):
            raise IntegrityError(f"chunk {index} has {len(data)} bytes, {len(buffer)} were expected")
        buffer[:] = data
        self.verify(index)

    def snapshot(self) -> Snapshot:
        """The whole; ``ValueError`` while chunks are missing."""
        if self._missing:
            raise ValueError(f"{len(self._missing)} chunks are missing")
        return Snapshot(self.manifest.round, self.manifest.tensors, self.manifest.meta_json, self._image)
