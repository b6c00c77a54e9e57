"""The book of a gossiping swarm: what came in, what is there, what is under way, and what was given up.

Mass is a pair: weight, in quanta, and what a value counts with it, in whole marks; both are exact.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from lepton_p2p.gossip.push_sum import QUANTUM, Ledger
from lepton_p2p.identity import PeerId, short
from lepton_p2p.simulation.oracle import Violation


@dataclass(frozen=True, slots=True)
class Mass:
    """``weight`` in quanta and ``marks``: value times weight."""

    weight: int = 0
    marks: int = 0

    def __add__(self, other: Mass) -> Mass:
        return Mass(self.weight + other.weight, self.marks + other.marks)

    def __sub__(self, other: Mass) -> Mass:
        return Mass(self.weight - other.weight, self.marks - other.marks)

    def part(self, weight: float, of: float) -> Mass:
        """As much of it as ``weight`` is of ``of``; marks are not split."""
        return Mass(quanta(weight), self.marks * quanta(weight) // quanta(of))


def quanta(weight: float) -> int:
    """A weight as a whole number."""
    number = round(weight / QUANTUM)
    if number * QUANTUM != weight or weight < 0.0:
        raise Violation("mass-conserved", f"there is a weight of {weight!r}")
    return number


def weight_of(ledger: Ledger) -> int:
    """All that a peer says is its own, in quanta."""
    flying = sum(weight for _, weight in ledger.in_flight.values())
    return quanta(ledger.weight) + quanta(ledger.waiting) + quanta(flying)


class Book:
    """Told of everything that changes mass; raises :class:`Violation` as soon as the sum is another.

    moved: shares that changed hands.  returned: that came back.  voided: times that somebody gave up its own for that
    of others.  died: with what they had.  lost: shares whose sender died, or was cut off, between its yes and the
    receiver's hearing of it.
    """

    def __init__(self) -> None:
        self.moved = self.returned = self.voided = self.died = self.lost = 0
        self._expected = Mass()
        self._sum = Mass()
        self._held: dict[PeerId, Mass] = {}
        self._weighty: set[PeerId] = set()
        self._under_way: dict[tuple[PeerId, int], Mass] = {}

    def entered(self, mass: Mass) -> None:
        """Somebody brings it in, or has trained."""
        self._expected += mass

    def look(self, who: PeerId, ledger: Ledger, marks: int) -> None:
        """This is what ``who`` has now; whatever happened between two looks was one step."""
        mass = Mass(weight_of(ledger), marks)
        self._sum += mass - self._held.get(who, Mass())
        self._held[who] = mass
        if ledger.weight:
            self._weighty.add(who)
        elif who in self._weighty:
            raise Violation("mass-conserved", f"{short(who)} has no weight any more")
        self._check(who)

    def gave(self, to: PeerId, hold: int, mass: Mass, *, heard: bool) -> None:
        """A sender said yes to ``to``; ``heard``: it may still hear it."""
        self.moved += 1
        if heard:
            self._under_way[to, hold] = mass
            self._sum += mass
        else:
            self.lost += 1
            self._expected -= mass

    def took(self, who: PeerId, hold: int, mass: Mass) -> None:
        """``who`` has heard the yes."""
        given = self._under_way.pop((who, hold), None)
        if given != mass:
            raise Violation("mass-conserved", f"{short(who)} takes what nobody gave it")
        self._sum -= mass

    def refused(self, who: PeerId, hold: int) -> None:
        """``who`` has heard a no."""
        if (who, hold) in self._under_way:
            raise Violation("mass-conserved", f"{short(who)} is refused what it was given")

    def released(self, who: PeerId, holds: Iterable[int]) -> float:
        """``who`` will not hear of them any more; the weight that is lost by it."""
        gone = Mass()
        for hold in holds:
            mass = self._under_way.pop((who, hold), None)
            if mass is not None:
                self.lost += 1
                gone += mass
        self._sum -= gone
        self._expected -= gone
        return gone.weight * QUANTUM

    def void(self, mass: Mass) -> None:
        """Somebody gives up its own for that of others."""
        self.voided += 1
        self._expected -= mass

    def death(self, who: PeerId) -> None:
        """With all that it had, and all that it had been given without knowing."""
        mass = self._held.pop(who, Mass())
        self.died += bool(mass.weight)
        self._sum -= mass
        self._expected -= mass
        self.released(who, [hold for peer, hold in self._under_way if peer == who])

    def under_way(self, receivers: Collection[PeerId]) -> int:
        """Shares that were given to one of ``receivers``, which does not know it yet."""
        return sum(peer in receivers for peer, _ in self._under_way)

    def _check(self, who: PeerId) -> None:
        if self._sum != self._expected:
            more = self._sum - self._expected
            seen = f"{more.weight * QUANTUM:+.6g} of weight and {more.marks:+d} marks"
            raise Violation("mass-conserved", f"{seen} too much after a step of {short(who)}")
