"""Push-sum weights: who holds how much of the swarm's total, in a network that loses, repeats and dies.

Stochastic gradient push (arXiv 1811.10792) on the push-sum protocol of Kempe, Dobra and Gehrke (FOCS 2003): a peer
pushes half of its weight together with its value; values are mixed by weight; the total is conserved.

Two peers cannot agree over a bad network on whether a share has changed hands (the two generals).  Hence one of them
decides: a share belongs to its *sender* until the receiver, who has it in its hands already, asks for it and the
sender says yes.  Before that the sender may take it back at any time, whatever has become of the message, and then
says no for ever.  So a share is never in the swarm twice, whoever dies, is cut off, or is wrongly believed dead; and it
is lost only where a peer that holds it dies, or where the sender dies between its yes and the receiver's hearing of it.

Pure: it knows weights and ids, not tensors, and no clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from lepton_p2p.identity import PeerId

QUANTUM = 2.0**-40
"""All weights are whole multiples of it, so that sums of weights are exact; who has but one has nothing to halve."""
MAX_WEIGHT = 2.0**12
"""What a transfer may claim to carry; up to twice as much is added without rounding."""
REMEMBERED = 4096
"""Transfers whose receivers may ask again, if the answer was lost; of older ones they are told no, and lose them."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """``weight`` on its way from ``sender``; ``(sender, id)`` is unique.  ``founding``: of what it is a share."""

    sender: PeerId
    id: int
    weight: float
    founding: int = 0


@dataclass(frozen=True, slots=True)
class Hold:
    """A transfer that has arrived and is not yet this peer's; ``id`` is unique among all that it ever holds.

    asked: whether its sender was asked for it, so that it may have said yes.
    """

    id: int
    transfer: Transfer
    asked: bool = False


@dataclass(slots=True)
class Ledger:
    """One peer's account.  ``first``: where its ids begin; another one in every life of a peer, so that nobody takes
    one of its transfers for one of an earlier life (64 bits, random).

    weight: what its value counts.  waiting: its own, but not yet mixed into the value: what has come in, and what has
    come back.  given_up: what it threw away.
    """

    me: PeerId
    weight: float = 0.0
    first: int = 0
    waiting: float = 0.0
    given_up: float = 0.0
    in_flight: dict[int, tuple[PeerId, float]] = field(default_factory=dict)
    """This peer's until it is asked for: id -> (partner, weight)."""
    holds: dict[int, Hold] = field(default_factory=dict)
    _given: dict[int, int] = field(default_factory=dict)
    _next: int = 0

    # -- out ----------------------------------------------------------------------------------------------------

    def offer(self, partner: PeerId, founding: int = 0) -> Transfer | None:
        """Half of the weight for ``partner``; None if there is too little to halve."""
        half = math.floor(self.weight / 2 / QUANTUM) * QUANTUM
        if half < QUANTUM or partner == self.me:
            return None
        self.weight -= half
        number = self._number()
        self.in_flight[number] = (partner, half)
        return Transfer(self.me, number, half, founding)

    def take_back(self, number: int) -> float:
        """It is not given away any more, whether or not it has arrived; the weight that waits to be mixed again.

        0.0 if the partner has been given it, or it came back before.
        """
        weight = self.in_flight.pop(number, (self.me, 0.0))[1]
        self.waiting += weight
        return weight

    def give(self, partner: PeerId, number: int, hold: int) -> bool:
        """``partner`` asks for a transfer that it has as its ``hold``: from the first yes on it is that partner's.

        The answer to the same question is always the same; a copy that arrives later is another hold, and gets a no.
        """
        if self.in_flight.get(number, (None, 0.0))[0] != partner:
            return self._given.get(number) == hold
        del self.in_flight[number]
        self._given[number] = hold
        if len(self._given) > REMEMBERED:
            del self._given[next(iter(self._given))]
        return True

    # -- in -----------------------------------------------------------------------------------------------------

    def hold(self, transfer: Transfer) -> Hold | None:
        """It has arrived: its sender is to be asked for it.  None if it is here already, or carries no such weight."""
        here = {(hold.transfer.sender, hold.transfer.id) for hold in self.holds.values()}
        if (transfer.sender, transfer.id) in here:
            return None
        if not QUANTUM <= transfer.weight <= MAX_WEIGHT or transfer.weight % QUANTUM:
            return None
        hold = Hold(self._number(), transfer)
        self.holds[hold.id] = hold
        return hold

    def given(self, number: int) -> float:
        """The sender said yes: the weight that waits to be mixed in; 0.0 if the hold was ended before."""
        hold = self.holds.pop(number, None)
        weight = hold.transfer.weight if hold is not None else 0.0
        self.waiting += weight
        return weight

    def mix(self, weight: float) -> float:
        """Move ``weight`` from waiting into the own; return the share of its value in the mix."""
        self.waiting -= weight
        self.weight += weight
        return weight / self.weight

    def give_up(self) -> None:
        """The own weight is void, and what waits is not touched."""
        self.given_up += self.weight
        self.weight = 0.0

    def _number(self) -> int:
        self._next += 1
        return (self.first + self._next) % 2**64
