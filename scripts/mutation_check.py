"""Does the simulator notice?  Switches off one safety mechanism at a time and counts the seeds until it is caught.

    python scripts/mutation_check.py [--seeds 400] [--only NAME ...] [--json FILE]

Every mutant must be caught; the untouched code must not be.  Exits with 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from lepton_p2p.gossip import account, push_sum
from lepton_p2p.membership import beliefs, exchange, seeds, table
from lepton_p2p.replication import branches, cursor, footing
from lepton_p2p.rounds import agreement, balloting, core, decision, meeting, position, progress, ring
from lepton_p2p.simulation import fetching, rounds, streams, trainer
from lepton_p2p.simulation.campaign import run
from lepton_p2p.simulation.mishaps import FAULTS
from lepton_p2p.simulation.plan import Plan

MUTANTS: dict[str, Callable[[], None]] = {}
"""What each switches off is its docstring; its name is what the table shows."""
GOSSIP: set[str] = set()
"""Those that are tried on swarms that gossip."""
UNTOUCHED = {"": "all_reduce", "gossip": "gossip"}
"""What is tried as it is."""


def mutant(function: Callable[[], None]) -> Callable[[], None]:
    MUTANTS[function.__name__.replace("_", "-")] = function
    return function


def mutant_of_gossip(function: Callable[[], None]) -> Callable[[], None]:
    GOSSIP.add(function.__name__.replace("_", "-"))
    return mutant(function)


def nothing(*args: object, **kwargs: object) -> None:
    """In place of a method."""


def change(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Replace an attribute by what ``make`` makes of it."""
    setattr(owner, name, make(getattr(owner, name)))


# -- rounds --------------------------------------------------------------------------------------------------


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


# -- the data cursor and the state -----------------------------------------------------------------------------


# -- splits --------------------------------------------------------------------------------------------------


@mutant
def lineages_that_are_told_apart() -> None:
    """Members of two lineages go on as if they were of one."""
    decision._one_lineage = lambda reports, *, majority: (reports, ())


@mutant
def where_a_split_began() -> None:
    """Nobody remembers the states at which somebody fell away."""
    cursor.Cursor._falls_apart = lambda self, given, ready: False  # type: ignore[method-assign]


@mutant
def what_a_branch_contains() -> None:
    """A branch does not tell of the states on its way: who comes from one of them brings it in again."""

    def branch_of(held: Any, here: Any) -> Any:
        found = original(held, here)
        return found and replace(found, since=(), gains=())

    original = branches.branch_of
    branches.branch_of = branch_of


@mutant
def rounds_of_the_bearer_alone() -> None:
    """The others train in a round into which somebody brings a branch."""

    def plan(self: Any) -> Any:
        return original(replace(self, bearer=None))

    original = cursor.Cursor.plan
    cursor.Cursor.plan = plan  # type: ignore[method-assign]


@mutant
def cursor_rollback() -> None:
    """The samples of a member that died do not come back."""
    change(cursor, "_outcome", lambda original: lambda claim, note: (original(claim, note)[0], ()))

    def advance(self: Any, *, contributors: Any, **rest: Any) -> Any:
        return original(self, contributors=set(self.plan()) | set(contributors), **rest)

    original = cursor.Cursor.advance
    cursor.Cursor.advance = advance  # type: ignore[method-assign]


@mutant
def samples_of_contributors() -> None:
    """Samples come back although their gradient is in the result."""
    change(cursor, "_outcome", lambda original: lambda claim, note: ((), claim))


@mutant
def replay() -> None:
    """A newcomer applies the state that it fetched, and not the rounds since."""

    def catch_up(self: Any) -> None:
        if self._fetch is not None and self._fetch.done and self._fetch.state is not None:
            self._kept = self._kept[:1]
        original(self)

    original = trainer.VirtualTrainer._catch_up
    trainer.VirtualTrainer._catch_up = catch_up  # type: ignore[method-assign]


@mutant
def the_state_before_the_round() -> None:
    """The state that is kept for newcomers is that after the round in which they came."""

    def take(self: Any, outcome: Any) -> None:
        original(self, outcome)
        for round in self.keeping.rounds():
            if round == outcome.result.round - 1:
                self.keeping._kept[round] = (self.state, self.keeping._kept[round][1])

    original = trainer.VirtualTrainer._take
    trainer.VirtualTrainer._take = take  # type: ignore[method-assign]


@mutant
def giving_up_a_snapshot_that_is_gone() -> None:
    """A newcomer asks for ever for a snapshot that nobody keeps any more."""
    fetching.all_have_passed = lambda round, completed: False  # type: ignore[assignment]


@mutant
def knowing_that_nothing_was_lost() -> None:
    """Newcomers found the training anew whenever nobody among them holds the state."""
    change(footing, "founders_of", lambda original: lambda result: original(replace(result, round=1)))
    trainer.founders_of = footing.founders_of


# -- membership ------------------------------------------------------------------------------------------------


@mutant
def refutation() -> None:
    """Who is called dead says nothing to that."""
    beliefs.Beliefs._about_me = nothing  # type: ignore[method-assign]


@mutant
def precedence_of_incarnations() -> None:
    """The newest fact to arrive is believed, whatever its incarnation."""
    table.supersedes = lambda rumour, known: True


@mutant
def reconnecting() -> None:
    """The dead are never tried again, and neither are the seeds."""
    exchange.Exchange.reconnect = lambda self, now: self._set_reconnect(now)  # type: ignore[method-assign]
    seeds.Seeds._try = nothing  # type: ignore[method-assign]
    seeds.Seeds.lost = nothing  # type: ignore[method-assign]


@mutant
def the_owners_incarnation() -> None:
    """Who accuses a member raises its incarnation, to be believed."""

    def learn(self: Any, now: float, rumour: Any, *, reason: str = "") -> None:
        if rumour.status is table.Status.SUSPECT and rumour.origin == self._me.id:
            rumour = replace(rumour, incarnation=rumour.incarnation + 1)
        original(self, now, rumour, reason=reason)

    original = beliefs.Beliefs.learn
    beliefs.Beliefs.learn = learn  # type: ignore[method-assign]


# -- gossip --------------------------------------------------------------------------------------------------


@mutant_of_gossip
def what_came_back_is_not_given() -> None:
    """Who asks for a share gets a yes, also after it came back to its sender."""

    def give(self: Any, partner: Any, number: int, hold: int) -> bool:
        return original(self, partner, number, hold) or number not in self._given

    original = push_sum.Ledger.give
    push_sum.Ledger.give = give  # type: ignore[method-assign]


@mutant_of_gossip
def copies_of_a_share() -> None:
    """Who asks again for what it has been given gets a yes, also for a copy that came later."""

    def give(self: Any, partner: Any, number: int, hold: int) -> bool:
        return original(self, partner, number, hold) or number in self._given

    original = push_sum.Ledger.give
    push_sum.Ledger.give = give  # type: ignore[method-assign]


@mutant_of_gossip
def asking_for_a_share() -> None:
    """What has arrived is the receiver's at once; what failed is the sender's as before."""

    def answered(self: Any, now: float, number: int, answer: bool | None) -> bool:
        return original(self, now, number, True)

    original = account.Account.answered
    account.Account.answered = answered  # type: ignore[method-assign]


@mutant_of_gossip
def the_same_answer_to_the_same_question() -> None:
    """A sender forgets to whom it gave a share: who asks again, because it did not hear the yes, gets a no."""

    def give(self: Any, partner: Any, number: int, hold: int) -> bool:
        self._given.clear()
        return original(self, partner, number, hold)

    original = push_sum.Ledger.give
    push_sum.Ledger.give = give  # type: ignore[method-assign]


@mutant_of_gossip
def taking_back() -> None:
    """The weight of what did not get through is gone."""

    def take_back(self: Any, number: int) -> float:
        weight = original(self, number)
        self.waiting -= weight
        return weight

    original = push_sum.Ledger.take_back
    push_sum.Ledger.take_back = take_back  # type: ignore[method-assign]


@mutant_of_gossip
def halves() -> None:
    """The weight is halved, and a quarter is sent."""

    def offer(self: Any, partner: Any, founding: int) -> Any:
        transfer = original(self, partner, founding)
        if transfer is None:
            return None
        self.in_flight[transfer.id] = (partner, transfer.weight / 2)
        return replace(transfer, weight=transfer.weight / 2)

    original = push_sum.Ledger.offer
    push_sum.Ledger.offer = offer  # type: ignore[method-assign]


@mutant_of_gossip
def whole_quanta() -> None:
    """Weights are halved as floating-point numbers are, and sums of them rounded."""
    push_sum.math = type("", (), {"floor": staticmethod(lambda number: number)})  # type: ignore[assignment]


@mutant_of_gossip
def telling_what_is_lost() -> None:
    """A share whose sender is gone is lost without a word."""

    def release(self: Any, sender: Any = None) -> Any:
        return [replace(hold, asked=False) for hold in original(self, sender)]

    original = account.Account.release
    account.Account.release = release  # type: ignore[method-assign]


@mutant_of_gossip
def weight_of_who_is_believed_dead() -> None:
    """Who is believed dead by somebody loses its weight."""

    def gone(self: Any, peer: Any) -> Any:
        self.ledger.weight = 0.0
        return original(self, peer)

    original = account.Account.gone
    account.Account.gone = gone  # type: ignore[method-assign]


@mutant_of_gossip
def the_last_weights() -> None:
    """Who was dropped has no say, also where nobody has any weight."""

    def nobody_has_any(self: Any, alive: Any, times: int) -> bool:
        answers = [self._answers.get(peer, 0) for peer in alive]
        return bool(answers) and min(answers) >= times

    account.Account.nobody_has_any = nobody_has_any  # type: ignore[method-assign]


@dataclass(frozen=True, slots=True)
class Verdict:
    """seeds: how many it took, None if it was not caught; what: the invariant that broke."""

    name: str
    what: str
    seeds: int | None
    broken: str
    seconds: float


def judge(name: str, most: int) -> Verdict:
    """Run seeds with the mutant ``name`` (or one of ``UNTOUCHED``) until an invariant breaks."""
    if name in MUTANTS:
        MUTANTS[name]()
    strategy = UNTOUCHED.get(name) or ("gossip" if name in GOSSIP else "all_reduce")
    began = time.monotonic()
    for seed in range(most):
        outcome = run(Plan(seed, 3, 10, frozenset(FAULTS), strategy=strategy))
        if outcome.violation:
            return _verdict(name, seed + 1, outcome.violation, began)
    return _verdict(name, None, "", began)


def _verdict(name: str, count: int | None, violation: str, began: float) -> Verdict:
    what = (MUTANTS[name].__doc__ or "").strip() if name in MUTANTS else "Nothing: the code as it is."
    shown = name if name in MUTANTS else f"(none) {UNTOUCHED[name]}"
    return Verdict(shown, what, count, violation, time.monotonic() - began)


def _judge(job: tuple[str, int]) -> Verdict:
    return judge(*job)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=400, help="within how many seeds a mutant must be caught")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help=f"of {', '.join(MUTANTS)}")
    parser.add_argument("--json", metavar="FILE", help="write the table there too")
    options = parser.parse_args()
    if unknown := set(options.only) - set(MUTANTS):
        parser.error(f"there is no mutant {', '.join(sorted(unknown))}")
    names = options.only or [*UNTOUCHED, *MUTANTS]
    verdicts = []
    # Every mutant in a process of its own: nothing is ever switched on again.
    leave_it_to_me = (signal.SIGINT, signal.SIG_IGN)
    context = multiprocessing.get_context("spawn")
    with context.Pool(initializer=signal.signal, initargs=leave_it_to_me, maxtasksperchild=1) as pool:
        for verdict in pool.imap(_judge, [(name, options.seeds) for name in names]):
            verdicts.append(verdict)
            caught = "not caught" if verdict.seeds is None else f"seed {verdict.seeds - 1}: {verdict.broken[:90]}"
            print(f"{verdict.name:36} {caught}", flush=True)
    if options.json:
        with open(options.json, "w") as file:
            json.dump([{k: getattr(v, k) for k in Verdict.__slots__} for v in verdicts], file, indent=1)
    escaped = [v.name for v in verdicts if (v.seeds is None) != (v.name not in MUTANTS)]
    caught_count = sum(v.seeds is not None for v in verdicts)
    print(f"{caught_count} caught within {options.seeds} seeds; wrong: {', '.join(escaped) or 'none'}")
    sys.exit(1 if escaped else 0)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
