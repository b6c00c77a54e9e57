"""What is trained in the simulator: a vector of integers in which every wrong contribution shows for ever."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lepton_p2p.identity import PeerId
from lepton_p2p.replication.cursor import Cursor
from lepton_p2p.replication.ranges import Range
from lepton_p2p.rounds.result import RoundResult
from lepton_p2p.simulation.streams import Numbers

_RESUMED = 1
PRIME = 2**61 - 1
"""Numbers are counted modulo this one, as Python's hashes of integers are."""


def mark(seed: int, pass_number: int, place: int) -> int:
    """What the sample at ``place`` adds to the ledger when it is used in a pass."""
    return hash((seed, pass_number, place)) % PRIME


@dataclass(frozen=True, slots=True)
class State:
    """A replica's state: ``numbers[0]`` is the ledger of used samples, ``numbers[1]`` depends on the order of rounds.

    history: names the rounds that led here, in order; two states with the same history must be the same.
    """

    numbers: Numbers
    cursor: Cursor
    history: int = 0

    @property
    def digest(self) -> int:
        """64 bits of everything that members compare, never 0."""
        cursor = self.cursor
        places = [number for item in cursor.returned for number in item]
        claimants = [int(peer, 16) for peer in cursor.claimants]
        counts = (cursor.pass_number, cursor.position, cursor.used, cursor.skipped, cursor.step, cursor.samples)
        bearer = int(cursor.bearer, 16) if cursor.bearer else 0
        parts = (self.numbers, counts, cursor.chain, bearer, cursor.unions, tuple(places), tuple(claimants))
        return hash(parts) & (2**64 - 1) or 1

    def resumed(self) -> State:
        """As a process goes on from it that finds it on its disk: nobody has claims yet."""
        return State(
            self.numbers, replace(self.cursor, claimants=(), entering=(), bearer=None), hash((self.history, _RESUMED))
        )

    def contribution(self, me: PeerId, claim: Sequence[Range]) -> Numbers:
        """What a peer brings into a round for the samples of ``claim``: nothing without any."""
        cursor, numbers = self.cursor, self.numbers
        if not claim:
            return (0,) * len(numbers)
        marks = [
            mark(cursor.seed, cursor.pass_number, place) for item in claim for place in range(item.start, item.stop)
        ]
        order = sum(one % 1009 for one in marks) * (numbers[1] % 997 + 1)
        own = int(me, 16) % PRIME
        rest = (hash((own, cursor.step, index)) % PRIME for index in range(2, len(numbers)))
        return (sum(marks), order, *rest)

    def way_to(self, other: State) -> Numbers:
        """What a bearer brings: all the way to its own numbers, since a share of integers would not be exact."""
        return tuple((there - here) % PRIME for here, there in zip(self.numbers, other.numbers, strict=True))

    def apply(self, total: Numbers, after: Cursor, result: RoundResult) -> State:
        """The state after a round with this sum."""
        numbers = self.numbers
        if after.step > self.cursor.step:
            numbers = tuple((old + new) % PRIME for old, new in zip(numbers, total, strict=True))
        said = tuple((int(peer, 16), int.from_bytes(result.notes[peer])) for peer in result.members)
        return State(numbers, after, hash((self.history, result.round, result.digest, said)))
