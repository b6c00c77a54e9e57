"""Whom a newcomer can get the state from, and how long it makes sense to ask."""

from __future__ import annotations

from collections.abc import Collection

from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.rounds.epoch import Epoch


def donors(epoch: Epoch | None, round: int, *, exclude: Collection[PeerId]) -> list[PeerInfo]:
    """Members that took part in a round up to ``round``: they may have had the state after it."""
    members = epoch.members if epoch is not None else ()
    return [member.peer for member in members if member.since <= round and member.id not in exclude]


def all_have_passed(round: int, completed: int) -> bool:
    """Whether nobody can still be about to keep the state after ``round``; ``completed``: the last decided round.

    It is kept when round + 1 is applied.  Who puts something into round + 2 has applied round + 1; so once round + 2 is
    decided, who holds the state has kept it, and who has not kept it never will.
    """
    return completed >= round + 2
