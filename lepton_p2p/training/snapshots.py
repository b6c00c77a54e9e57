"""Snapshots of the replicated state: taken between two rounds, kept for joiners, fetched chunk by chunk, restored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from lepton_p2p.errors import IntegrityError
from lepton_p2p.replication.cursor import Cursor
from lepton_p2p.training.manifest import DTYPES, Manifest, TensorSpec, chunk_count, lay_out
from lepton_p2p.training.state import (
    Schema,
    load_model,
    load_optimizer,
    model_tensors,
    optimizer_tensors,
    optimizer_values,
    raw,
)


@dataclass(frozen=True)
class Snapshot:
    """The state after ``round``: ``image`` is a flat uint8 CPU tensor that nobody writes any more."""

    round: int
    tensors_table: tuple[TensorSpec, ...]
    meta_json: str
    image: Tensor

    @cached_property
    def manifest(self) -> Manifest:
        """Hashed at first use (about 0.6 s per GB), by the thread that asks."""
        data = self.image.numpy().data
        total = len(data)
        plain = Manifest(self.round, self.tensors_table, (), self.meta_json, total)
        spans = [plain.span(index) for index in range(chunk_count(total))]
        digests = tuple(hashlib.sha256(data[at : at + length]).digest() for at, length in spans)
        return Manifest(self.round, self.tensors_table, digests, self.meta_json, total)

    def read(self, offset: int, length: int) -> memoryview:
        """``length`` bytes from ``offset``, read-only, without a copy; ``ValueError`` outside of the image."""
        if offset < 0 or length < 0 or offset + length > len(self.image):
            raise ValueError(
                f"bytes {offset} to {offset + length} are outside of a snapshot of {len(self.image)} bytes"
            )
        return self.image.numpy().data[offset : offset + length].toreadonly()

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, as views of the image: do not write."""
        return views(self.tensors_table, self.image)

    @cached_property
    def meta(self) -> dict[str, Any]:
        """What is not a tensor: ``cursor``, ``optimizer``, ``extra``."""
        try:
            meta = json.loads(self.meta_json)
        except (ValueError, RecursionError) as error:
            raise IntegrityError(f"a snapshot's meta data is not JSON: {error}") from None
        if not isinstance(meta, dict):
            raise IntegrityError("a snapshot's meta data is not a table")
        return meta

    @property
    def cursor(self) -> Cursor | None:
        """The data cursor; None for weights only.  :class:`IntegrityError` if it is nonsense."""
        table = self.meta.get("cursor")
        if table is None:
            return None
        try:
            return Cursor.from_json(table)
        except (ValueError, TypeError) as error:
            raise IntegrityError(f"a snapshot's {error}") from None


def views(table: tuple[TensorSpec, ...], image: Tensor) -> dict[str, Tensor]:
    """The tensors of ``table`` as views of the flat uint8 ``image``."""
    return {
        spec.name: image[spec.offset : spec.offset + spec.nbytes].view(DTYPES[spec.dtype]).reshape(spec.shape)
        for spec in table
    }


def capture(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    cursor: Cursor | None = None,
    *,
    round: int = 0,
    extra: Mapping[str, Any] | None = None,
) -> Snapshot:
    """Copy the state (weights only, without an optimizer); everything in it must be the same on all members.

    Costs one copy of the state; ``TypeError`` for dtypes or optimizer options that cannot be represented.
    """
    named = list(model_tensors(model))
    named += optimizer_tensors(optimizer) if optimizer is not None else ()
    table, total = lay_out(named)
    # Zeros: the gaps between aligned tensors are part of the chunks that are hashed.
    image = torch.zeros(total, dtype=torch.uint8)
    for spec, (_, tensor) in zip(table, named, strict=True):
        image[spec.offset : spec.offset + spec.nbytes].copy_(raw(tensor))
    meta = {
        "cursor": cursor.to_json() if cursor is not None else None,
        "optimizer": optimizer_values(optimizer) if optimizer is not None else None,
        "extra": dict(extra or {}),
    }
    return Snapshot(round, table, json.dumps(meta, sort_keys=True, separators=(",", ":")), image)


def restore(snapshot: Snapshot, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> Cursor | None:
    """Make model and optimizer bit-identical to those that were captured, and return the cursor.

    :class:`SchemaMismatch` or :class:`IntegrityError` (before any change) if the snapshot is of another kind.
    """
    Schema.of(model, optimizer).check(snapshot.tensors_table)
    cursor = snapshot.cursor
    tensors = snapshot.tensors()
    if optimizer is not None:
        values = snapshot.meta.get("optimizer")
        if not isinstance(values, dict):
            raise IntegrityError("a snapshot holds weights only, the optimizer's state is missing")
        load_optimizer(optimizer, tensors, values)
    load_model(model, tensors)
    return cursor
