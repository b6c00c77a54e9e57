"""What a snapshot consists of: the table of contents that members agree on before a byte of it travels."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lepton_p2p.errors import IntegrityError

CHUNK_BYTES = 1 << 20
ALIGNMENT = 64
MAX_META = 16 << 20
"""Characters of a manifest's JSON."""
MAX_TENSORS = 100_000
MAX_DIMENSIONS = 16

DTYPES: Mapping[str, torch.dtype] = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
    )
}
"""The dtypes that a snapshot may hold, by name."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor in a snapshot: C-contiguous, little-endian, ``nbytes`` bytes from ``offset``."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int = 0

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * DTYPES[self.dtype].itemsize

    @classmethod
    def of(cls, name: str, tensor: Tensor, offset: int = 0) -> TensorSpec:
        """``TypeError`` for dtypes that are not in ``DTYPES``."""
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in DTYPES:
            raise TypeError(f"tensor {name!r} is {tensor.dtype}; the state may hold {', '.join(DTYPES)}")
        return cls(name, dtype, tuple(tensor.shape), offset)


def aligned(offset: int) -> int:
    """The next multiple of ``ALIGNMENT``."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


def chunk_count(total: int) -> int:
    """How many chunks ``total`` bytes are cut into."""
    return -(-total // CHUNK_BYTES)


@dataclass(frozen=True)
class Manifest:
    """round: the state is that after this round.  tensors: in the order of their offsets.  chunk_digests: SHA-256 (32
    bytes) of every ``CHUNK_BYTES`` of the image.  meta_json: canonical JSON of everything that is not a tensor.

    Equal states have equal manifests on all peers, so ``digest`` is what members compare.
    """

    round: int
    tensors: tuple[TensorSpec, ...]
    chunk_digests: tuple[bytes, ...]
    meta_json: str
    total_bytes: int

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over all fields, 32 bytes."""
        head = [self.round, self.total_bytes, [[t.name, t.dtype, list(t.shape), t.offset] for t in self.tensors]]
        whole = hashlib.sha256(json.dumps(head, separators=(",", ":")).encode())
        whole.update(hashlib.sha256(self.meta_json.encode()).digest())
        for chunk in self.chunk_digests:
            whole.update(chunk)
        return whole.digest()

    @property
    def chunk_bytes(self) -> int:
        return CHUNK_BYTES

    def span(self, index: int) -> tuple[int, int]:
        """``(offset, length)`` of chunk ``index``."""
        offset = index * CHUNK_BYTES
        return offset, min(CHUNK_BYTES, self.total_bytes - offset)

    def check(self) -> None:
        """Raise :class:`IntegrityError` unless all numbers agree with each other.  Call before allocating anything."""
        if len(self.tensors) > MAX_TENSORS or len(self.meta_json) > MAX_META or self.round < 0:
            raise IntegrityError("a manifest is too large: another member's will be tried")
        end = 0
        for tensor in self.tensors:
            if tensor.dtype not in DTYPES or len(tensor.shape) > MAX_DIMENSIONS or min(tensor.shape, default=0) < 0:
                raise IntegrityError(f"a manifest has an impossible tensor {tensor.name[:80]!r}")
            if tensor.offset != aligned(end):
                raise IntegrityError(f"a manifest has a wrong offset for tensor {tensor.name[:80]!r}")
            end = tensor.offset + tensor.nbytes
        if end != self.total_bytes or len({tensor.name for tensor in self.tensors}) != len(self.tensors):
            raise IntegrityError("a manifest's tensors do not add up to its size")
        if len(self.chunk_digests) != chunk_count(end) or any(len(digest) != 32 for digest in self.chunk_digests):
            raise IntegrityError("a manifest has not one digest for every chunk")


def lay_out(tensors: Sequence[tuple[str, Tensor]]) -> tuple[tuple[TensorSpec, ...], int]:
    """``(specs with offsets, total bytes)`` for tensors in this order."""
    specs: list[TensorSpec] = []
    end = 0
    for name, tensor in tensors:
        specs.append(TensorSpec.of(name, tensor, aligned(end)))
        end = specs[-1].offset + specs[-1].nbytes
    return tuple(specs), end
