"""SWIM."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lepton_p2p.membership import beliefs, exchange, seeds, table
from mutants.catalogue import mutant, nothing


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
