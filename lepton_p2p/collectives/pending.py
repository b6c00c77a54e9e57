"""The round that a caller waits for, and the results that are kept for others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import torch

from lepton_p2p.collectives.operations import Op
from lepton_p2p.collectives.outcome import Outcome
from lepton_p2p.collectives.packing import Packed
from lepton_p2p.identity import PeerId
from lepton_p2p.rounds.epoch import Epoch
from lepton_p2p.rounds.layout import Layout
from lepton_p2p.rounds.records import Flag, Record
from lepton_p2p.rounds.result import Lost, RoundResult


@dataclass(slots=True)
class Spent:
    """What the attempts at one round cost here: payload bytes and seconds."""

    bytes_sent: int = 0
    bytes_received: int = 0
    seconds_wait: float = 0.0
    seconds_wire: float = 0.0
    seconds_compute: float = 0.0

    def add(self, attempt: Outcome) -> None:
        """And those of one more attempt."""
        self.bytes_sent += attempt.bytes_sent
        self.bytes_received += attempt.bytes_received
        self.seconds_wait += attempt.seconds_wait
        self.seconds_wire += attempt.seconds_wire
        self.seconds_compute += attempt.seconds_compute


@dataclass(slots=True)
class Pending:
    """A caller's input and the future of its outcome; the input is kept until the round is decided."""

    packed: Packed
    root: PeerId | None
    weight: float
    note: bytes
    state: int
    future: asyncio.Future[Finished]
    attempts: int = 0
    spent: Spent = field(default_factory=Spent)


@dataclass(frozen=True, slots=True)
class Kept:
    """A decided round's result as this peer holds it: ``buffer`` is flat uint8 in ``layout``.

    common: it lies on a board, and is not this peer's to reuse.
    """

    round: int
    epoch_number: int
    epoch_tag: int
    members: tuple[PeerId, ...]
    records: tuple[bytes, ...]
    digest: int
    attempts: int
    layout: Layout
    buffer: torch.Tensor
    common: bool = False


@dataclass(frozen=True, slots=True)
class Finished:
    """A decided round: the kept bytes and what the caller is told."""

    kept: Kept
    result: RoundResult


def root_rank(packed: Packed, root: PeerId | None, members: Sequence[PeerId]) -> int | None:
    """The rank of a broadcast's root; None if it is not among ``members`` (any more)."""
    return members.index(root) if packed.op is Op.COPY and root in members else None


def layout_for(packed: Packed, root: PeerId | None, members: Sequence[PeerId]) -> Layout:
    """How the buffer of a round is cut on a ring of ``members``; the same on all of them and for all holders.

    A broadcast whose root is gone moves no bytes: its round completes empty, and each caller is told so.
    """
    rank = root_rank(packed, root, members)
    if packed.op is Op.COPY and rank is None:
        return Layout.slots([0] * len(members))
    return packed.layout(len(members), root=rank)


def contributors(records: Sequence[Record], op: Op) -> tuple[PeerId, ...]:
    """Whose tensors are in the result: sound ones that weigh something (bytes that are only moved weigh nothing)."""
    return tuple(record.peer for record in records if not op.reduces or counts(record))


def counts(record: Record) -> bool:
    """Whether its member's tensors are part of what is reduced, as far as it says itself."""
    return not record.flags & Flag.NON_FINITE and record.weight > 0


def refuse(encoded: bytes) -> bytes:
    """The record of a member whose tensors turned out not to be finite, as if it had said so."""
    record = Record.decode(encoded)
    return replace(record, flags=record.flags | Flag.NON_FINITE).encode()


def round_result(
    kept: Kept,
    pending: Pending,
    epoch: Epoch,
    lost: Sequence[Lost],
    *,
    recovered: bool,
) -> RoundResult:
    """Put together what the caller is told of a decided round."""
    records = [Record.decode(record) for record in kept.records]
    spent = pending.spent
    whose = contributors(records, pending.packed.op)
    aggregation = pending.packed.aggregation
    return RoundResult(
        epoch=kept.epoch_number,
        round=kept.round,
        attempts=max(1, pending.attempts),
        members=kept.members,
        contributors=whose,
        refused=tuple(r.peer for r in records if r.flags & Flag.NON_FINITE),
        newcomers=tuple(m.id for m in epoch.members if m.since == kept.round and m.id in kept.members),
        lost=tuple(lost),
        total_weight=sum(r.weight for r in records if not r.flags & Flag.NON_FINITE),
        digest=kept.digest,
        notes=MappingProxyType({r.peer: r.note for r in records}),
        recovered=recovered,
        trimmed=0 if aggregation is None else aggregation.trimmed(len(whose)),
        bytes_sent=spent.bytes_sent,
        bytes_received=spent.bytes_received,
        seconds_wait=spent.seconds_wait,
        seconds_wire=spent.seconds_wire,
        seconds_compute=spent.seconds_compute,
    )
