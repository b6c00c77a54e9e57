"""Which side of a split swarm may go on, if only one may (policy ``majority``): dynamic voting, decided in joint steps.

The electorate is who was in the last epoch in which a round was decided.  An epoch *carries* it with more than half of
its peers, or with exactly half and the first of them by id (dynamic-linear voting, Jajodia and Mutchler 1990).  So
swarms may shrink, one by one, to a single peer, and no two parts of one ever both carry.

A new epoch changes the electorate only when a round has been decided in it, since only then have all its members
installed it.  Until then both count, the old electorate and the members of the new epoch (as in joint consensus,
Ongaro 2014), and somebody who was left out of the news does not carry the old one alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from lepton_p2p.identity import PeerId

Electorate = frozenset[PeerId]
MOST = 8
"""Electorates that count at the same time; an epoch that would need more does not carry until some are decided."""


def carries(present: Collection[PeerId], electorates: Iterable[Electorate]) -> bool:
    """Whether ``present`` are a majority of each of the electorates."""
    return all(_majority(present, electorate) for electorate in electorates)


def _majority(present: Collection[PeerId], electorate: Electorate) -> bool:
    votes = len(electorate.intersection(present))
    half = 2 * votes == len(electorate) and min(electorate, default=None) in present
    return 2 * votes > len(electorate) or half or not electorate


def gather(electorates: Iterable[Iterable[Electorate]]) -> tuple[Electorate, ...]:
    """All that any member counts, each once, in an order that does not depend on who is asked first."""
    return tuple(sorted({one for several in electorates for one in several}, key=sorted))


def succeed(electorates: tuple[Electorate, ...], members: Collection[PeerId]) -> tuple[Electorate, ...]:
    """What counts in an epoch of ``members``: they too, if they carry what counted before."""
    if not carries(members, electorates):
        return electorates
    joint = gather([electorates, [frozenset(members)]])
    return joint if len(joint) <= MOST else electorates


def without(electorates: Iterable[Electorate], peer: PeerId) -> tuple[Electorate, ...]:
    """``peer`` has left for good, and lets the others go on."""
    return gather([[one - {peer} for one in electorates if one - {peer}]])
