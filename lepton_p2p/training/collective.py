"""What training needs from the rest of a peer: small blocking interfaces, called from the training thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol

from torch import Tensor

from lepton_p2p.identity import PeerId
from lepton_p2p.rounds.aggregation import Aggregation
from lepton_p2p.rounds.result import RoundResult
from lepton_p2p.training.snapshots import Snapshot
from lepton_p2p.training.state import Schema


class Withdrawn(Exception):
    """The caller's own interruption took its input back; this peer is outside of the epoch until its next round."""


class Collective(Protocol):
    """Atomic rounds among the members of the swarm."""

    @property
    def me(self) -> PeerId:
        """This peer."""

    def members(self) -> tuple[PeerId, ...]:
        """Who is in the epoch, in ring order."""

    def state_begins(self, work: int) -> None:
        """Say that the state which the members hold begins with ``work`` contributions; 0: nobody holds any.

        All members say the same after the same round.  Lineages that meet are compared by it.
        """

    def state_holds(self, work: int) -> None:
        """Say that there are ``work`` contributions in what this peer holds: it has caught up with the others, or what
        was trained apart has been brought in.
        """

    def all_reduce(
        self,
        tensors: Sequence[Tensor],
        *,
        op: str = "mean",
        weight: float = 1.0,
        note: bytes = b"",
        state_digest: int = 0,
        aggregation: Aggregation | None = None,
    ) -> RoundResult:
        """One round, in place; blocks until it is decided.  ``tensors`` change only if it returns.

        op: "mean" is sum(weight * x) / sum(weight) over the contributors; without any, what the tensors hold is
        undefined.  aggregation: what stands in the place of the mean.  Raises ``RoundRejected`` and ``SchemaMismatch``
        (nobody's tensors changed), ``Dropped`` (the swarm went on without this peer; the next call waits until it is
        taken in again), ``Closed``, ``Withdrawn``.
        """


class StateSource(Protocol):
    """Where a newcomer gets the replicated state from."""

    def fetch(self, round: int, schema: Schema, cancelled: threading.Event) -> Snapshot:
        """Pull the snapshot of the state after ``round`` from several members, verified (``Assembler``); blocks.

        Members take it when they apply round ``round + 1``, perhaps a moment after this call.  Raises ``StateLost`` or
        ``IntegrityError`` if nobody (any more) has it, ``Closed`` soon after ``cancelled`` is set.
        """


PushHandler = Callable[[PeerId, bytes, memoryview], bool]
"""``(sender, header, payload) -> taken``: called on a thread of the exchange; copies what it needs from the payload."""


class PairExchange(Protocol):
    """Messages between pairs of peers, without waiting."""

    def alive(self) -> tuple[PeerId, ...]:
        """Whom this peer believes to be alive, itself excluded."""

    def push(self, partner: PeerId, header: bytes, payload: memoryview) -> Future[bool]:
        """Send; never blocks.  ``payload`` must stay unchanged until the future is done, and is not used after that.

        True / False: what the partner's handler returned.  An exception: unknown whether the partner got it.
        """

    def on_push(self, handler: PushHandler) -> None:
        """Who is called for what comes in."""

    def on_gone(self, callback: Callable[[PeerId], None]) -> None:
        """Called when a peer is confirmed dead or has left."""

    def on_dropped(self, callback: Callable[[], None]) -> None:
        """Called when this peer learns that the swarm went on without it."""
