"""What all peers together say about their rounds, as it comes in: one history, equal bits, no round left out.

Rounds form a tree.  The trunk is what the living stand on.  Other branches have been brought into it after a split, or
only the dead knew them: what anybody holds who lives must not be thrown away.  Pure: lines of ``ledger.py`` go in,
``Violation`` comes out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from lepton_p2p.replication.branch import Branch
from lepton_p2p.replication.notes import Note

Line = dict[str, Any]
KEPT = 4000
"""Rounds of the trunk that are remembered, for those who go on from an old checkpoint."""
LATE = 1000
"""Rounds of it for which a peer's line may still come."""


class Violation(AssertionError):
    """A promise is broken: its name, and what was seen."""

    def __init__(self, name: str, seen: str) -> None:
        super().__init__(f"{name}: {seen}")
        self.name, self.seen = name, seen


@dataclass(slots=True, eq=False)
class Round:
    """One decided round: what is the same for all, who told of it when (seconds), which round was before."""

    line: Line
    told: dict[str, float] = field(default_factory=dict)
    before: Round | None = None
    params: str = ""
    holders: set[str] = field(default_factory=set)
    """Whose replica stood at it; the others that told of it were still joining."""
    weights: list[float] | None = None
    retried: bool = False
    recovered: int = 0
    on_trunk: bool = False
    brought: list[Round] = field(default_factory=list)
    """What was done apart from the trunk and became part of it in this round."""
    united: bool = False
    """Whether it is a round of such a part."""

    @property
    def number(self) -> int:
        return int(self.line["round"])

    @property
    def step(self) -> int:
        """Optimizer steps after it."""
        return int(self.line["step"])

    @property
    def contributors(self) -> frozenset[str]:
        """The first eight digits of their ids, as peers print them."""
        return frozenset(peer[:8] for peer in self.line["shared"]["contributors"])

    @property
    def members(self) -> frozenset[str]:
        return frozenset(peer[:8] for peer in self.line["shared"]["members"])

    @property
    def samples(self) -> int:
        """Used until then, as the peers count."""
        return int(self.line["samples"])

    @property
    def carries(self) -> bool:
        """Whether any member has something that it has yet to bring in."""
        return any(note.carries for note in self._notes.values())

    @property
    def _notes(self) -> dict[str, Note]:
        return {peer: Note.decode(bytes.fromhex(note)) for peer, note in self.line["shared"]["notes"].items()}

    @property
    def branch(self) -> tuple[str, Branch] | None:
        """Who brought something in (eight digits), and what."""
        notes = self._notes
        found = [(peer[:8], notes[peer].branch) for peer in self.line["shared"]["contributors"]]
        return next(((peer, branch) for peer, branch in found if branch is not None), None)

    def entry(self) -> Line:
        """For a ``SampleCounter``."""
        return {"shared": self.line["shared"]} | ({"weights": self.weights} if self.weights else {})

    def __str__(self) -> str:
        shared = self.line["shared"]
        members, tellers = sorted(self.members), sorted(self.told)
        return f"round {self.number} of epoch {shared['epoch']} with {members}, told by {tellers}"


@dataclass(slots=True)
class _Teller:
    at: Round | None = None
    astray: bool = True
    """Whether its next round may be any: it is new, or the swarm went on without it."""


class History:
    """Told of everything in the order in which each peer told it, it raises :class:`Violation` at once."""

    def __init__(self) -> None:
        self.trunk: list[Round] = []
        """The last rounds that are settled."""
        self.settled = self.retried = self.recovered = self.void = 0
        """Rounds of the trunk; those that took more than one attempt, and that somebody had to fetch; rounds that only
        the dead held, or in which nothing was done."""
        self.united = 0
        """Sides of a split that were brought in."""
        self.rejected = 0
        """Rounds that were decided without a result."""
        self.reached = self.reached_before = 0
        """The last step that anybody made; and that anybody had made when all died."""
        self.on_told: Callable[[Round], None] = lambda round: None
        self._rounds: dict[Any, Round] = {}
        self._old: list[Round] = []
        """Rounds of the dead, after the trunk."""
        self._began_again = False
        self._tellers: dict[str, _Teller] = {}

    # -- what peers tell ---------------------------------------------------------------------------------

    def told(self, peer: str, line: Line) -> None:
        """``peer`` decided a round."""
        shared = line["shared"]
        key = (shared["round"], shared["epoch"], tuple(shared["members"]))
        round = self._rounds.setdefault(key, Round(line))
        if shared != round.line["shared"]:
            raise Violation("one result per round", f"{peer} has another result of {round}: {shared}")
        self._compare(peer, round, line)
        self._follow(peer, round)
        round.told[peer] = line["at"]
        round.retried |= line["attempts"] > 1
        round.recovered += line["recovered"]
        self.reached = max(self.reached, round.step)
        self.on_told(round)

    def dropped(self, peer: str) -> None:
        """The swarm went on without ``peer``, and it knows."""
        self._tellers.setdefault(peer, _Teller()).astray = True

    def stepped(self, peer: str, line: Line) -> None:
        """``peer`` had a step without a round's result."""
        if line["phase"] == "joining":
            self.dropped(peer)
        else:
            self.rejected += 1

    def _compare(self, peer: str, round: Round, line: Line) -> None:
        params, weights = line["params"], line.get("weights")
        if params and round.params and params != round.params:
            raise Violation("bit-identical replicas", f"{peer} has {params} after {round}, not {round.params}")
        round.params = round.params or params
        round.weights = round.weights or weights
        line.pop("weights", None)  # long
        if params:
            # Who only joins does not know it.
            round.holders.add(peer)
            round.line |= {name: line[name] for name in ("step", "samples", "metrics")}

    def _follow(self, peer: str, round: Round) -> None:
        teller = self._tellers.setdefault(peer, _Teller())
        before, teller.at = teller.at, round
        if teller.astray:
            teller.astray = False
            return
        assert before is not None
        if round.number != before.number + 1:
            raise Violation("no round is lost", f"{peer} went from {before} to {round}")
        if round.before is not None and round.before is not before:
            raise Violation("one result per round", f"{peer} came to {round} from {before}, others from {round.before}")
        round.before = before

    # -- what becomes of it ------------------------------------------------------------------------------

    def settle(self, peers: Collection[str]) -> list[Round]:
        """The rounds that the trunk has grown by since the last time; ``peers``: all that live, standing on it."""
        tips = [teller.at for peer in peers if (teller := self._tellers.get(peer)) and teller.at]
        if not tips:
            return []
        lowest = min(tips, key=lambda round: round.number)
        alive = {round for tip in tips for round in self._down(tip, lowest.number)}
        apart = [tip for tip in tips if lowest not in self._down(tip, lowest.number)]
        if apart:
            raise Violation("one lineage", f"nothing parts them, but some stand on {apart[0]} and others on {lowest}")
        new = self._above_trunk(lowest)
        for round in new:
            self._find_branch(round, new)
        self._cut_branches({*alive, *new, *(one for round in new for one in round.brought)}, peers)
        self._forget_branches(new)
        self._grow(new)
        return new

    def _find_branch(self, round: Round, new: Collection[Round]) -> None:
        if round.branch is None:
            return
        bearer, branch = round.branch
        apart = [one for one in self._rounds.values() if one not in new and not one.on_trunk and bearer in one.members]
        ends = [other for other in apart if other.params and other.samples == branch.end.samples]
        if not ends:
            raise Violation("no round is lost", f"{round} brings in what nobody told of: {branch}")
        line = [max(ends, key=lambda end: end.number)]
        while (before := self._before(line[-1])) is not None and not (
            before in new or before.on_trunk or before.united
        ):
            line.append(before)
        round.brought = line[::-1]
        for one in line:
            one.united = True
        self.united += 1

    def _forget_branches(self, new: Collection[Round]) -> None:
        gone = {one for round in new for one in round.brought}
        self._rounds = {key: round for key, round in self._rounds.items() if round not in gone}

    def tail(self, count: int = 300) -> list[str]:
        """The last rounds that are known, for people."""
        known = [*self.trunk[-count:], *(round for round in self._rounds.values() if not round.on_trunk)]
        return [f"{'trunk ' if round.on_trunk else 'branch'} {round}" for round in known]

    def died(self) -> None:
        """All peers are dead."""
        self.reached_before, self.reached = self.reached, 0
        self._tellers.clear()
        self._old = [round for round in self._rounds.values() if not round.on_trunk]
        self._rounds.clear()
        self._began_again = True

    def go_back(self, peers: Collection[str]) -> Round:
        """All had died, and stand on new rounds that go back to a checkpoint: the round after which it was made."""
        tips = [teller.at for peer in peers if (teller := self._tellers.get(peer)) and teller.at]
        first = next(round for round in self._above_trunk(min(tips, key=lambda round: round.number)) if round.params)
        step = first.step - bool(first.contributors)
        for base in reversed([*self.trunk, *self._old]):
            if base.params and base.step == step and (first.contributors or base.params == first.params):
                break
        else:
            raise Violation("a checkpoint is what was trained", f"{first} goes on from a step {step} that nobody made")
        root = self._down(first, 0)[-1]
        root.before, self._old, self._began_again = base, [], False
        self._rounds |= {id(round): round for round in self._down(base, 0) if not round.on_trunk}
        while base.on_trunk and self.trunk[-1] is not base:
            self.trunk.pop().on_trunk = False
            self.settled -= 1
        return base

    def _down(self, round: Round, number: int) -> list[Round]:
        """``round``, the one before it, and so on, to ``number`` or to the trunk (of which the first is included)."""
        found = [round]
        while found[-1].number > number and not found[-1].on_trunk and (before := self._before(found[-1])):
            found.append(before)
        return found

    def _before(self, round: Round) -> Round | None:
        """The round before; if nobody lived to tell of both, the one with the most of the same members."""
        if round.before is None and round.number > 1:
            candidates = [other for other in self._rounds.values() if other.number == round.number - 1]
            shared = max(candidates, key=lambda other: len(other.members & round.members), default=None)
            round.before = shared if shared is not None and shared.members & round.members else None
        return round.before

    def _above_trunk(self, tip: Round) -> list[Round]:
        line = self._down(tip, 0)
        if line[-1].on_trunk:
            line.pop()
        elif self.trunk and not self._began_again:
            raise Violation("no round is lost", f"nobody knows what was before {line[-1]}")
        return line[::-1]

    def _cut_branches(self, alive: Collection[Round], peers: Collection[str]) -> None:
        dead = {round for round in self._rounds.values() if not round.on_trunk and round not in alive}
        lost = [round for round in dead if round.contributors and not round.holders.isdisjoint(peers)]
        if lost:
            last = max(lost, key=lambda round: round.number)
            holders = sorted(last.holders.intersection(peers))
            raise Violation(
                "no round is lost", f"{len(lost)} rounds were thrown away, at last {last}, which {holders} held"
            )
        self.void += len(dead)
        self._rounds = {key: round for key, round in self._rounds.items() if round not in dead}

    def _grow(self, new: list[Round]) -> None:
        for round in new:
            round.on_trunk = True
            self.retried += round.retried
            self.recovered += round.recovered > 0
        self.settled += len(new)
        self.trunk.extend(new)
        for round in self.trunk[:-KEPT]:
            round.before = None
        del self.trunk[:-KEPT]
        if self.trunk:
            oldest = self.trunk[-1].number - LATE
            self._rounds = {k: round for k, round in self._rounds.items() if round.number >= oldest}
