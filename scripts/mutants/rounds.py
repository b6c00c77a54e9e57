"""Agreement, recovery and the ring."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lepton_p2p.rounds import agreement, balloting, core, decision, meeting, position, progress, ring
from lepton_p2p.simulation import rounds, streams, trainer
from mutants.catalogue import mutant, nothing


@mutant
def result_recovery() -> None:
    """A member that missed the result goes on as if it had it."""

    def install(self: Any, decision: Any, **what: bool) -> Any:
        verdict = original(self, decision, **what)
        if self.recovering:
            self.recovering = 0
            self.completed, self.digest = decision.base, decision.digest
        return verdict

    original = progress.Progress.install
    progress.Progress.install = install  # type: ignore[method-assign]


@mutant
def result_retention() -> None:
    """The last result is forgotten when the next round begins, instead of when that is complete."""

    def run_round(self: Any, *args: Any, **kwargs: Any) -> None:
        self.kept = None
        original(self, *args, **kwargs)

    original = rounds.VirtualRounds.run
    rounds.VirtualRounds.run = run_round  # type: ignore[method-assign]


@mutant
def input_retention() -> None:
    """A repeated attempt does not start from the input that was kept, but from what the last one left behind."""

    def start(self: Any, run_: Any, pending: Any, right: Any) -> None:
        if run_.attempt > 1:
            pending.numbers = tuple(number * 2 for number in pending.numbers)
        original(self, run_, pending, right)

    original = rounds.VirtualRounds._start
    rounds.VirtualRounds._start = start  # type: ignore[method-assign]


@mutant
def freezing() -> None:
    """Who promises goes on with the running attempt: its report is not true any more when the epoch is decided."""
    core.AgreementCore._stop = nothing  # type: ignore[method-assign]


@mutant
def ballot_comparison() -> None:
    """A promise is given for any ballot, also for one below what was promised."""

    def on_prepare(self: Any, message: Any) -> None:
        promised, self._promised = self._promised, replace(message.ballot, counter=0)
        original(self, message)
        if self._promised.counter == 0:
            self._promised = promised

    original = balloting.Balloting._on_prepare
    balloting.Balloting._on_prepare = on_prepare  # type: ignore[method-assign]


@mutant
def ballot_of_the_installed_epoch() -> None:
    """An epoch is installed whatever was promised last."""

    def on_install(self: Any, message: Any) -> None:
        if self.me.id in message.epoch.ids:
            self._install(message.epoch, message.decision)

    balloting.Balloting._on_install = on_install  # type: ignore[method-assign]


@mutant
def promises_of_all() -> None:
    """A proposal is complete when most have promised."""
    from lepton_p2p.rounds import proposal

    proposal.Proposal.complete = property(  # type: ignore[assignment, method-assign]
        lambda self: 2 * (len(self.reports) + len(self.missing)) > len(self.candidates)
    )


@mutant
def newcomers_in_their_first_round() -> None:
    """The input of a newcomer in the middle of its first round is forgotten, although it may be in the result."""
    decision._partook = lambda report, round: False  # type: ignore[assignment]


@mutant
def stale_chunks() -> None:
    """Chunks of another epoch are taken for those of this one."""

    def relation(self: Any, number: int, tag: int, round: int) -> Any:
        return original(self, self._number, self._tag, round)

    original = position.Position.relation
    position.Position.relation = relation  # type: ignore[method-assign]


@mutant
def chunks_of_the_next_lineage() -> None:
    """Who leaves a lineage keeps its place in it, and takes chunks of another one for old."""
    position.Position.leave = nothing  # type: ignore[method-assign]


@mutant
def checksums_of_chunks() -> None:
    """What arrives is added without looking whether it is what was sent."""
    streams.Frame.intact = True  # type: ignore[assignment, method-assign]


@mutant
def digest_of_a_recovered_result() -> None:
    """A result that was fetched is taken as it comes."""
    rounds.digest = lambda numbers: ANYTHING  # type: ignore[assignment]


class _Anything:
    """Equal to everything."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]


ANYTHING = _Anything()


@mutant
def order_of_a_ring() -> None:
    """The last reducing hop is left out: a chunk is final one member too early."""

    def init(self: Any, segment: int, phase: Any, distance: int, world: int, *rest: Any) -> None:
        original(self, segment, phase, distance, world, *rest)
        if world > 2 and phase is ring.Phase.REDUCE and distance == world - 1:
            self.operation = ring.Operation.STORE

    original = ring._Lane.__init__
    ring._Lane.__init__ = init  # type: ignore[method-assign]


@mutant
def stepping_aside() -> None:
    """Of two lineages that meet, none yields."""
    meeting.Meeting._on_announce = nothing  # type: ignore[method-assign]


@mutant
def waiting_for_an_install() -> None:
    """Who has promised waits for the epoch for ever."""
    balloting.Balloting._await_install = nothing  # type: ignore[method-assign]


@mutant
def dropping_what_is_obsolete() -> None:
    """Who changes to another lineage keeps what it has computed."""
    trainer.Footing.enter_again = nothing  # type: ignore[method-assign]


@mutant
def sending_a_withdrawn_round() -> None:
    """A caller that gives up its round does not leave the epoch."""
    agreement.Agreement.withdraw = lambda self, now, reason: []  # type: ignore[method-assign]
