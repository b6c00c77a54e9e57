"""Who sees everything: the invariants, each with the name that is printed when it breaks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from lepton_p2p.identity import PeerId, PeerInfo, short
from lepton_p2p.membership import Packet, Rumour, Sync
from lepton_p2p.replication import trail
from lepton_p2p.replication.notes import Note
from lepton_p2p.rounds import effects as fx
from lepton_p2p.rounds.result import RoundResult
from lepton_p2p.simulation.replica import PRIME, State, mark
from lepton_p2p.simulation.rounds import Kept
from lepton_p2p.simulation.sides import Sides
from lepton_p2p.simulation.streams import Numbers

INVARIANTS = {
    "one-result-per-round": "members of one epoch hold the same result of a round, and of the round before it",
    "no-partial-result": "a result is the sum of what all members of its epoch put in, nothing less and nothing else",
    "bit-identical": "replicas that applied the same rounds are the same",
    "samples-once": "every sample is used exactly once per pass",
    "united-exactly": "what one side of a split did is brought in whole, and no fewer are counted twice than were",
    "one-side-goes-on": "(majority) nobody goes on apart from where others have gone on from another result",
    "no-silent-restart": "a training does not begin anew in a lineage that has come further",
    "mass-conserved": "what gossiping peers have, and what is under way, is what came in less what was given up",
    "incarnation": "incarnations never go back, and only their owner raises them",
    "no-crash": "no machine raises an exception, whatever happens",
    "bounded": "queues, memories and the number of messages stay within their bounds",
    "views-agree": "after the network has healed all members see exactly each other",
    "alive-for-good": "a live, reachable, running member is not believed dead for good",
    "liveness": "after the network has healed all members are in one epoch and rounds go on",
}


class Violation(Exception):
    """An invariant is broken: its name, and what was seen."""

    def __init__(self, name: str, seen: str) -> None:
        assert name in INVARIANTS, name
        super().__init__(f"{name}: {seen}")
        self.name, self.seen = name, seen


@dataclass(slots=True)
class _Ledger:
    """Which places of the current pass are used (a bit each), and what all marks so far add up to.

    parents: histories that this one continues; new: places that were used since then.
    """

    pass_number: int
    used: int
    total: int
    parents: tuple[int, ...] = ()
    new: int = 0


class Oracle:
    """Told of everything that matters, it raises :class:`Violation` at once.

    majority: of a split swarm one side at most goes on.
    """

    def __init__(self, *, majority: bool = False) -> None:
        self._sides = Sides() if majority else None
        self.rounds = 0
        self.recovered = 0
        self.retried = 0
        self.united = 0
        self.doubled = 0
        self.abandoned = 0
        self.counted_high = 0
        self._inputs: dict[tuple[int, int], dict[PeerId, Numbers]] = {}
        self._results: dict[tuple[int, int], int] = {}
        self._previous: dict[tuple[int, int], int] = {}
        self._bases: dict[int, tuple[int, int]] = {}
        self._last: dict[PeerId, tuple[int, int]] = {}
        self._states: dict[int, State] = {}
        self._ledgers: dict[int, _Ledger] = {}
        self._chains: dict[int, int] = {}
        self._incarnations: dict[PeerId, int] = {}

    # -- rounds ----------------------------------------------------------------------------------------

    def ran(self, who: PeerInfo, run: fx.Run, numbers: Numbers) -> None:
        """``who`` puts ``numbers`` into an attempt."""
        key = (run.epoch.tag, run.round)
        self.retried += run.attempt > 1
        self._inputs.setdefault(key, {})[who.id] = numbers

    def decided(self, who: PeerInfo, kept: Kept, *, recovered: bool) -> None:
        """``who`` takes ``kept`` for the result of a round."""
        key = (kept.epoch.tag, kept.round)
        digest = kept.sum.digest
        first = key not in self._results
        if self._results.setdefault(key, digest) != digest:
            raise Violation("one-result-per-round", f"{short(who.id)} has another result of round {kept.round}")
        last_round, last = self._last.get(who.id, (0, 0))
        if last_round == kept.round - 1 and last and self._previous.setdefault(key, last) != last:
            raise Violation(
                "one-result-per-round", f"{short(who.id)} came to round {kept.round} from another round before it"
            )
        self._last[who.id] = (kept.round, digest)
        self.recovered += recovered
        if first:
            self.rounds += 1
            self._check_sum(kept)

    def _check_sum(self, kept: Kept) -> None:
        inputs = self._inputs.get((kept.epoch.tag, kept.round), {})
        missing = [short(peer) for peer in kept.epoch.ids if peer not in inputs]
        if missing:
            raise Violation("no-partial-result", f"round {kept.round} has a result without {', '.join(missing)}")
        expected = tuple(map(sum, zip(*(inputs[peer] for peer in kept.epoch.ids), strict=True)))
        if expected != kept.sum.numbers:
            raise Violation("no-partial-result", f"the result of round {kept.round} is not the sum of its inputs")

    def installed(self, who: PeerInfo, event: fx.Installed, held: int) -> None:
        """``who`` is in a new epoch; ``held``: digest of the last result that counts there, as it holds it."""
        epoch, decision = event.epoch, event.decision
        base = self._bases.setdefault(epoch.tag, (decision.base, decision.digest))
        if base != (decision.base, decision.digest):
            raise Violation("one-result-per-round", f"{short(who.id)} starts epoch {epoch.number} from another round")
        if who.id in decision.holders and held != decision.digest:
            raise Violation("one-result-per-round", f"{short(who.id)} is called a holder of what it does not hold")

    def forgot(self, who: PeerInfo) -> None:
        """``who`` has left its lineage: what it held counts no more."""
        self._last.pop(who.id, None)

    def left(self, who: PeerInfo) -> None:
        """``who`` ends in good order."""
        if self._sides is not None:
            self._sides.left(who.id)

    # -- replicas --------------------------------------------------------------------------------------

    def began(self, state: State) -> None:
        """A training may start from ``state``."""
        self._states.setdefault(state.history, state)
        self._ledgers.setdefault(state.history, _Ledger(state.cursor.pass_number, 0, state.numbers[0]))

    def resumed(self, before: State, after: State) -> None:
        """A training may go on ``after`` a checkpoint of the state ``before``."""
        self._states.setdefault(after.history, after)
        ledger = replace(self._ledgers[before.history], parents=(before.history,), new=0)
        self._ledgers.setdefault(after.history, ledger)

    def founded(self, who: PeerInfo, round: int, work: int) -> None:
        """The training starts from what ``who`` holds; ``work``: contributions since the lineage began."""
        if work:
            raise Violation("no-silent-restart", f"{short(who.id)} founds in round {round}, after {work} contributions")

    def applied(self, who: PeerInfo, before: State, after: State, result: RoundResult) -> None:
        """``who`` went from one state to the next with the result of a round."""
        if self._sides is not None and not self._sides.step(who.id, before.history, after.history, result.members):
            raise Violation("one-side-goes-on", f"{short(who.id)} goes on from where another side has gone on")
        known = self._states.setdefault(after.history, after)
        if known != after:
            raise Violation("bit-identical", f"{short(who.id)} is in another state after round {result.round}")
        if after.history not in self._ledgers:
            self._chains[after.cursor.chain] = after.history
            unites = after.cursor.unions > before.cursor.unions
            account = self._unite if unites else self._account
            self._ledgers[after.history] = account(before, after, result)
        if self._ledgers[after.history].total != after.numbers[0]:
            raise Violation("samples-once", f"{short(who.id)}'s numbers are not those of the samples that were used")

    def given_up(self, why: str) -> None:
        """A peer will not bring in what it did apart."""
        self.abandoned += 1

    def _unite(self, before: State, after: State, result: RoundResult) -> _Ledger:
        """A round in which somebody brought what it did apart."""
        note = Note.read(result.notes[before.cursor.bearer or PeerId("")])
        branch = note.branch if note is not None else None
        brought = self._states.get(self._chains.get(branch.end.chain, 0)) if branch is not None else None
        if branch is None or brought is None or result.contributors != (before.cursor.bearer,):
            raise Violation("united-exactly", f"round {result.round} brings what nobody ever held")
        # A full trail may have forgotten it: that shows as used twice.
        if brought.history in self._behind([before.history]) and len(before.cursor.trail) < trail.MOST:
            raise Violation("united-exactly", f"round {result.round} brings in what was there already")
        if after.numbers != brought.numbers:
            raise Violation("united-exactly", f"round {result.round} does not lead to what was held apart")
        own, theirs = self._ledgers[before.history], self._ledgers[brought.history]
        parents = (before.history, brought.history)
        uses = self._uses(parents)
        further = max(own, theirs, key=lambda ledger: ledger.pass_number)
        used = own.used | theirs.used if own.pass_number == theirs.pass_number else further.used
        distinct = further.pass_number * after.cursor.total + used.bit_count()
        # Where splits have overlapped, or somebody went on from a checkpoint that the others do not know, it may bring
        # in again what they have: that shows as used twice.  But no fewer must be told than were.
        told = after.cursor.samples
        if told < uses or after.cursor.doubled != told - distinct:
            seen = f"{told} samples, {after.cursor.doubled} twice; right is {uses}, {uses - distinct}"
            raise Violation("united-exactly", f"round {result.round} counts {seen}")
        self.counted_high += told > uses
        self.united += 1
        self.doubled += after.cursor.doubled - before.cursor.doubled
        ended = used.bit_count() == after.cursor.total
        return _Ledger(further.pass_number + ended, 0 if ended else used, theirs.total, parents)

    def _uses(self, histories: Iterable[int]) -> int:
        """How often any place was used on the way to any of the histories; what they have in common counts once."""
        return sum(self._ledgers[history].new for history in self._behind(histories))

    def _behind(self, histories: Iterable[int]) -> set[int]:
        """All histories that these continue, and they."""
        seen: set[int] = set()
        waiting = list(histories)
        while waiting:
            history = waiting.pop()
            if history not in seen:
                seen.add(history)
                waiting += self._ledgers[history].parents
        return seen

    def _account(self, before: State, after: State, result: RoundResult) -> _Ledger:
        ledger, cursor = self._ledgers[before.history], before.cursor
        used, total, new = ledger.used, ledger.total, 0
        for peer in result.contributors:
            note = Note.read(result.notes[peer])
            for item in note.claim if note is not None else ():
                for place in range(item.start, item.stop):
                    if used >> place & 1:
                        raise Violation("samples-once", f"sample {place} is used twice in pass {cursor.pass_number}")
                    used |= 1 << place
                    new += 1
                    total = (total + mark(cursor.seed, cursor.pass_number, place)) % PRIME
        if after.cursor.pass_number == cursor.pass_number:
            return _Ledger(cursor.pass_number, used, total, (before.history,), new)
        missing = cursor.total - used.bit_count()
        if missing:
            raise Violation("samples-once", f"pass {cursor.pass_number} ended with {missing} samples unused")
        return _Ledger(after.cursor.pass_number, 0, total, (before.history,), new)

    # -- membership --------------------------------------------------------------------------------------

    def incarnation(self, who: PeerId, value: int) -> None:
        """What ``who`` says its incarnation is."""
        if value < self._incarnations.get(who, 0):
            raise Violation("incarnation", f"{short(who)} went back to incarnation {value}")
        self._incarnations[who] = value

    def told(self, packet: Packet) -> None:
        """A packet is sent."""
        for rumour in packet.rumours:
            self._check_owned(rumour)
        if isinstance(packet.body, Sync):
            self._check_all(packet.body.members)

    def _check_all(self, rumours: Iterable[Rumour]) -> None:
        for rumour in rumours:
            self._check_owned(rumour)

    def _check_owned(self, rumour: Rumour) -> None:
        if rumour.incarnation > self._incarnations.get(rumour.peer.id, rumour.incarnation):
            raise Violation("incarnation", f"somebody else raised that of {short(rumour.peer.id)}")
