"""How an attempt ends, and the digest of what it made."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lepton_p2p.identity import PeerId
from lepton_p2p.rounds.layout import Layout
from lepton_p2p.transport.links.frames import checksum


@dataclass(frozen=True, slots=True)
class Broken:
    """Why an attempt cannot complete, in one line, and who seems to be the cause (None: nobody in particular)."""

    reason: str
    suspect: PeerId | None


@dataclass(slots=True)
class Outcome:
    """A complete attempt.

    records: every member's, in ring order.  digest: 64-bit digest of the result (see :func:`result_digest`).
    Bytes are payloads.  seconds_wait: until the first chunk came; seconds_wire: from there to the end;
    seconds_compute: of both, spent on reducing and checksums.
    """

    records: tuple[bytes, ...] = ()
    digest: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    seconds_wait: float = 0.0
    seconds_wire: float = 0.0
    seconds_compute: float = 0.0


def combined_digest(checksums: Sequence[int], total: int) -> int:
    """XXH3-64 of the checksums of all chunks in layout order and the size of the buffer in bytes."""
    return checksum(struct.pack(f"!{len(checksums) + 1}Q", *checksums, total))


def result_digest(result: torch.Tensor, layout: Layout) -> int:
    """The digest that members of the ring with this ``layout`` found for ``result`` (flat, uint8, CPU)."""
    view = result.numpy().data
    return combined_digest([checksum(view[chunk.start : chunk.stop]) for chunk in layout.chunks()], layout.total)
