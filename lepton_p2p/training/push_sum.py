"""Push-sum weights: who holds how much of the swarm's total, in a network that loses, repeats and dies.

Stochastic gradient push (arXiv 1811.10792) on the push-sum protocol of Kempe, Dobra and Gehrke (FOCS 2003): a peer
pushes half of its weight together with its value; values are mixed by weight; the total is conserved.  Here a transfer
is *in flight* until its fate is known, so that a loss or a death neither destroys weight nor counts it twice.

Pure: it knows weights and ids, not tensors, and no clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from lepton_p2p.identity import PeerId

LEAST = 2.0**-40
"""Weights below this are not halved any more: a peer that pushes faster than it receives must not underflow."""
MAX_WEIGHT = 2.0**40
"""What a transfer may claim to carry."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """``weight`` on its way from ``sender``; ``(sender, id)`` is unique, ids ascend.

    ``settled``: the sender knows the fate of all its transfers with lower ids to this receiver or any other, so the
    receiver may forget them.
    """

    sender: PeerId
    id: int
    weight: float
    settled: int = 0


class Verdict(Enum):
    """What a receiver makes of a transfer."""

    NEW = "new"
    """It is mine now; the sender must be told."""
    DUPLICATE = "duplicate"
    """I have had it before; the sender must be told (again)."""
    REFUSED = "refused"
    """I do not take it, now or ever; the sender has it back or may take it back."""


@dataclass(slots=True)
class _Received:
    """What is remembered of one sender: ids from ``floor`` on that were taken or refused."""

    floor: int = 0
    taken: set[int] = field(default_factory=set)
    refused: set[int] = field(default_factory=set)


@dataclass(slots=True)
class Ledger:
    """One peer's account.

    weight: what its value counts.  waiting: accepted, but not yet mixed into the value.  The invariant, over all living
    peers: the sum of weight, waiting and what is in flight *and not accepted* is constant.
    """

    me: PeerId
    weight: float = 0.0
    waiting: float = 0.0
    _next: int = 1
    _in_flight: dict[int, tuple[PeerId, float]] = field(default_factory=dict)
    _received: dict[PeerId, _Received] = field(default_factory=dict)

    @property
    def in_flight(self) -> dict[int, tuple[PeerId, float]]:
        """Transfers of unknown fate: id -> (partner, weight)."""
        return dict(self._in_flight)

    def offer(self, partner: PeerId) -> Transfer | None:
        """Half of the weight for ``partner``, in flight until settled; None if there is too little to halve."""
        half = self.weight / 2
        if half < LEAST or partner == self.me:
            return None
        self.weight -= half
        number, self._next = self._next, self._next + 1
        self._in_flight[number] = (partner, half)
        return Transfer(self.me, number, half, min(self._in_flight))

    def acknowledged(self, number: int) -> bool:
        """The partner has it.  False if its fate was known before."""
        return self._in_flight.pop(number, None) is not None

    def reclaim(self, number: int) -> bool:
        """The partner does not have it and never will: take it back.  False if its fate was known before."""
        found = self._in_flight.pop(number, None)
        if found is not None:
            self.weight += found[1]
        return found is not None

    def gone(self, partner: PeerId) -> tuple[int, ...]:
        """``partner`` is confirmed dead: take back what it did not acknowledge; the ids taken back.

        If it was alive after all, it may hold that weight too; hence a peer that was declared dead must ``reset``.
        """
        numbers = tuple(number for number, (to, _) in self._in_flight.items() if to == partner)
        for number in numbers:
            self.reclaim(number)
        return numbers

    def accept(self, transfer: Transfer, *, room: bool = True) -> Verdict:
        """Idempotent by ``(sender, id)``.  ``room``: whether a new one can be taken; a refusal is final."""
        known = self._received.setdefault(transfer.sender, _Received())
        if transfer.id in known.taken:
            return Verdict.DUPLICATE
        _forget(known, min(transfer.settled, transfer.id))
        if transfer.id < known.floor or transfer.id in known.refused:
            return Verdict.REFUSED
        if not room or not LEAST <= transfer.weight <= MAX_WEIGHT:
            known.refused.add(transfer.id)
            return Verdict.REFUSED
        known.taken.add(transfer.id)
        self.waiting += transfer.weight
        return Verdict.NEW

    def query(self, sender: PeerId, number: int) -> bool:
        """Did I get it?  If not, I never will: its weight can be taken back as soon as this answer is known."""
        known = self._received.setdefault(sender, _Received())
        if number in known.taken:
            return True
        if number >= known.floor:
            known.refused.add(number)
        return False

    def mix(self, weight: float) -> float:
        """Move an accepted ``weight`` from waiting into the own; return the share of its value in the mix."""
        self.waiting = max(0.0, self.waiting - weight)
        self.weight += weight
        return weight / self.weight

    def reset(self) -> None:
        """I was declared dead: others took my weight back or wrote it off, so it must not come to life again."""
        self.weight = self.waiting = 0.0
        self._in_flight.clear()
        for known in self._received.values():
            known.refused |= known.taken
            known.taken.clear()


def total(ledgers: Iterable[Ledger]) -> float:
    """Sum of weight, waiting, and in flight but not accepted, of a set of living peers (for tests and diagnosis)."""
    alive = {ledger.me: ledger for ledger in ledgers}
    amount = sum(ledger.weight + ledger.waiting for ledger in alive.values())
    for ledger in alive.values():
        for number, (partner, weight) in ledger.in_flight.items():
            receiver = alive.get(partner)
            known = receiver._received.get(ledger.me) if receiver else None
            if known is None or number not in known.taken:
                amount += weight
    return amount


def _forget(known: _Received, below: int) -> None:
    if below > known.floor:
        known.floor = below
        known.taken = {number for number in known.taken if number >= below}
        known.refused = {number for number in known.refused if number >= below}
