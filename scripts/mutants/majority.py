"""Who may go on when a swarm is split (policy ``majority``)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from lepton_p2p.identity import PeerId
from lepton_p2p.rounds import balloting, core, decision, electorate, meeting
from mutants.catalogue import change, mutant_of_majority


@mutant_of_majority
def minorities_wait() -> None:
    """No side of a split waits for the others."""
    for module in (core, balloting, decision):
        module.carries = lambda present, electorates: True  # type: ignore[attr-defined]


@mutant_of_majority
def one_half_at_most() -> None:
    """Half of the electorate is enough for either side."""

    def at_least_half(present: Collection[PeerId], voters: electorate.Electorate) -> bool:
        return 2 * len(voters.intersection(present)) >= len(voters)

    electorate._majority = at_least_half


@mutant_of_majority
def joint_electorates() -> None:
    """The members of a new epoch have the say as soon as it is proposed, and those before them no more."""

    def at_once(electorates: Any, members: Collection[PeerId]) -> Any:
        return (frozenset(members),) if electorate.carries(members, electorates) else electorates

    decision.succeed = at_once  # type: ignore[attr-defined]


@mutant_of_majority
def electorates_of_the_dropped() -> None:
    """Who has dropped out forgets who had to agree."""

    def make(original: Any) -> Any:
        def drop(self: Any, reason: str, towards: Any) -> None:
            original(self, reason, towards)
            self._owed = 0, ()

        return drop

    change(meeting.Meeting, "_yield", make)
