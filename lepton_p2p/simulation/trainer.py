"""The training loop of one virtual process: what ``training.lockstep`` and its strategy are in a daemon's thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from lepton_p2p.identity import PeerInfo
from lepton_p2p.replication.branches import Branches
from lepton_p2p.replication.cursor import Cursor
from lepton_p2p.replication.footing import Deed, Footing, Turn, founders_of
from lepton_p2p.replication.keeping import Keeping
from lepton_p2p.replication.ranges import Range, size_of
from lepton_p2p.replication.vigil import Vigil
from lepton_p2p.rounds.result import RoundResult
from lepton_p2p.simulation.fetching import Sources, StateFetch
from lepton_p2p.simulation.replica import State
from lepton_p2p.simulation.rounds import Decided, Failed, VirtualRounds
from lepton_p2p.simulation.streams import Numbers

MAX_REJECTIONS = 3


class Witness(Protocol):
    """Who looks on."""

    def founded(self, who: PeerInfo, round: int, work: int) -> None: ...

    def applied(self, who: PeerInfo, before: State, after: State, result: RoundResult) -> None: ...

    def resumed(self, before: State, after: State) -> None: ...

    def given_up(self, why: str) -> None: ...


class VirtualTrainer:
    """Computes, takes part in a round, applies its result, and so on for ever.

    initial: what it would start from.  pace(): seconds that the next step's computation takes.  stepped(): there is a
    new state.  gave_up(reason): the training is over here.
    """

    def __init__(
        self,
        me: PeerInfo,
        initial: State,
        rounds: VirtualRounds,
        sources: Sources,
        witness: Witness,
        *,
        pace: Callable[[], float],
        stepped: Callable[[], None],
        gave_up: Callable[[str], None],
    ) -> None:
        self.footing = Footing()
        self.state = initial
        self.keeping: Keeping[State] = Keeping()
        self._me, self._rounds, self._sources, self._witness = me, rounds, sources, witness
        self._pace, self._stepped, self._gave_up = pace, stepped, gave_up
        self._fetch: StateFetch | None = None
        self._vigil = Vigil()
        self._branches: Branches[State] = Branches(lambda why, _: witness.given_up(why))
        self._kept: list[tuple[RoundResult, Numbers]] = []
        self._stopped = False

    @property
    def kept(self) -> int:
        """How many results wait for the state that they are to be applied to."""
        return len(self._kept)

    @property
    def carried(self) -> int:
        """How many states of other lineages it still has to bring in."""
        return len(self._branches)

    def step(self) -> None:
        """Begin the next round when its numbers are computed."""
        if self._stopped:
            return
        self._catch_up()
        claim = self.state.cursor.plan().get(self._me.id, ()) if self.footing.established else ()
        self._sources.later(self._pace(), lambda: self._contribute(claim))

    def stop(self) -> None:
        """No more rounds."""
        self._stopped = True
        self._end_fetch()

    def withdraw(self) -> None:
        """The program interrupts itself while it waits for a round, and begins anew."""
        if self._rounds.withdraw("its caller cancelled the round"):
            self._close()
            self.footing.step_out()
            self._sources.later(self._pace(), self.step)

    def _contribute(self, claim: tuple[Range, ...]) -> None:
        if self._stopped:
            return
        established, cursor = self.footing.established, self.state.cursor
        load = self._branches.load(cursor) if established else None
        numbers, weight, branch = self.state.contribution(self._me.id, claim), float(size_of(claim)), None
        if cursor.bearer == self._me.id and load:
            numbers, weight, branch = self.state.way_to(load.state), 1.0, load.branch
        note = self.footing.note(
            claim,
            0.0,
            seen=lambda: self.footing.rejections,
            seed=lambda: self.state.digest,
            work=self.state.cursor.work,
            waited=self._vigil.waited(self._sources.now()),
            carries=load.branch.end.chain if load else 0 if established else self._branches.chain,
            branch=branch,
        )
        self._rounds.run(
            numbers,
            weight=weight if established else 0.0,
            note=note.encode(),
            state=self.state.digest if established else 0,
            ended=self._ended,
        )

    def _ended(self, outcome: Decided | Failed) -> None:
        if self._stopped:
            return
        if isinstance(outcome, Decided):
            self._take(outcome)
        elif outcome.dropped:
            if self.footing.established:
                self._branches.keep(self.state, self.state.cursor)
            self._close()
            self._vigil.end()
            self.footing.enter_again()
        else:
            self.footing.rejected()
            if self.footing.rejections >= MAX_REJECTIONS:
                self._gave_up(outcome.reason)
                return
        self.step()

    def _take(self, outcome: Decided) -> None:
        result = outcome.result
        turn = self.footing.take(result, self._me.id)
        if self._me.id in turn.founders:
            self._witness.founded(self._me, result.round, self._rounds.work - self._rounds.origin)
        if turn.begins is not None:
            self._rounds.state_begins(turn.begins)
        match turn.deed:
            case Deed.APPLY:
                self._vigil.end()
                self.keeping.settle(members=result.members, done=turn.settled)
                if turn.wanting:
                    self.keeping.hold(result.round - 1, self.state, turn.wanting)
                self._apply(result, outcome.numbers)
            case Deed.KEEP:
                self._kept.append((result, outcome.numbers))
            case Deed.FETCH:
                self._vigil.end()
                self._fetch = StateFetch(self._sources, self._me.id, result.round - 1)
                self._kept = [(result, outcome.numbers)]
            case Deed.LOST:
                self._wait_for_holders(turn)
            case Deed.WAIT:
                pass

    def _wait_for_holders(self, turn: Turn) -> None:
        if not self._vigil.keep(self._sources.now(), turn.waited):
            return
        kept = self._branches.newest()
        if kept is not None:
            self.state = kept.resumed()
            self._witness.resumed(kept, self.state)
            self.footing.rescue()
        elif not turn.carried:
            self._gave_up("all members that held the training state are gone")

    def _apply(self, result: RoundResult, numbers: Numbers) -> None:
        before = self.state
        after = before.cursor.advance(
            members=result.members,
            contributors=result.contributors,
            refused=result.refused,
            notes=result.notes,
            founders=founders_of(result),
        )
        self.state = before.apply(numbers, after, result)
        self._witness.applied(self._me, before, self.state, result)
        if after.unions > before.cursor.unions:
            self._rounds.state_holds(after.work)
        self._stepped()

    def _catch_up(self) -> None:
        fetch = self._fetch
        if fetch is None or not fetch.done:
            return
        self._fetch = None
        kept, self._kept = self._kept, []
        if fetch.state is None:
            self.footing.fetch_failed()
            return
        self.state = fetch.state
        for result, numbers in kept:
            self._apply(result, numbers)
        self.footing.caught_up()
        self._rounds.state_holds(self.state.cursor.work)

    def _close(self) -> None:
        self._end_fetch()
        self.keeping.clear()

    def _end_fetch(self) -> None:
        if self._fetch is not None:
            self._fetch.cancel()
            self._fetch = None
        self._kept = []


def initial_state(seed: int, length: int, total: int, batch: int) -> State:
    """What a job of this ``seed`` starts from: ``length`` numbers, ``total`` samples, ``batch`` per peer and round."""
    return State((0,) * length, Cursor(total=total, seed=seed, batch=batch))
