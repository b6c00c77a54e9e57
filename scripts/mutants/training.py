"""The data cursor, the state, and what heals a split."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lepton_p2p.replication import branches, cursor, footing
from lepton_p2p.rounds import decision
from lepton_p2p.simulation import fetching, trainer
from mutants.catalogue import change, mutant


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
