"""Histories of swarms that were never there: lines as peers would write them into their ledgers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lepton_p2p.replication.branch import Branch
from lepton_p2p.replication.notes import Note
from lepton_p2p.replication.ranges import Range

Line = dict[str, Any]


def line(
    number: int,
    members: Sequence[str],
    *,
    epoch: int = 1,
    step: int | None = None,
    digest: int | None = None,
    params: str | None = None,
    places: Mapping[str, range] | None = None,
    brings: tuple[str, Branch] | None = None,
    carries: Collection[str] = (),
    **more: Any,
) -> Line:
    """What each of ``members`` says of round ``number``; all contributed, if nothing else is said.

    ``brings``: who brings a branch in, which nobody else contributes to.  ``carries``: who has yet to.
    """
    claims = {peer: Note(claim=(Range(taken.start, taken.stop),)) for peer, taken in (places or {}).items()}
    claims |= {peer: replace(claims.get(peer, Note()), carries=1) for peer in carries}
    if brings is not None:
        claims[brings[0]] = Note(branch=brings[1])
    step = number if step is None else step
    shared = {
        "round": number,
        "epoch": epoch,
        "members": list(members),
        "contributors": list(members) if brings is None else [brings[0]],
        "refused": [],
        "total_weight": sum(map(len, (places or {}).values())),
        "digest": number if digest is None else digest,
        "notes": {peer: claims.get(peer, Note()).encode().hex() for peer in members},
    }
    params = f"params {step}" if params is None else params
    own = {
        "step": step,
        "params": params,
        "samples": 0,
        "metrics": {},
        "attempts": 1,
        "recovered": False,
        "at": float(number),
        "phase": "training",
    }
    return {"kind": "round", "round": number, "shared": shared, **own, **more}
