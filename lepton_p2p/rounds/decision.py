"""From the reports of all members of a new epoch to what it starts from: one pure function.

The caller has frozen every reporter (they promised), so the reports stay true until the decision is installed
or superseded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import reduce

from lepton_p2p.identity import PeerId, PeerInfo, short
from lepton_p2p.rounds.electorate import Electorate, carries, gather, succeed
from lepton_p2p.rounds.epoch import Ballot, Epoch, Member
from lepton_p2p.rounds.lineages import lineages_of
from lepton_p2p.rounds.messages import Decision, Report, Standing


def decide(
    ballot: Ballot,
    peers: Mapping[PeerId, PeerInfo],
    reports: Mapping[PeerId, Report],
    lost: Iterable[tuple[PeerId, str]] = (),
    *,
    max_attempts: int,
    majority: bool = False,
) -> tuple[Epoch, Decision]:
    """The next epoch and its :class:`Decision`.

    ``reports`` holds one report for each peer in ``peers`` (all members of the new epoch).  Rules, in order:

    0. Of several lineages the heaviest prevails; to it, members of the others are newcomers.
    1. The base is the highest round whose result (or rejection) some reporter holds.
    2. Holders must agree on its digest, and pending inputs on the state that they were made from; a minority
       (a flipped bit, a kernel that rounds differently) starts anew.
    3. A member one round behind that has put in its input fetches the result, and so does a newcomer that was in the
       middle of its first round (its input may be in that result); whoever is further behind, holds nothing, or has put
       nothing in, so that the others went on without it, is a newcomer.
    4. If nobody is behind and the pending inputs do not fit together, or were tried ``max_attempts`` times,
       the round after the base is rejected for everyone.

    ``majority``: of lineages one that has the majority prevails before all others, and who had to agree until now has
    to agree in the new epoch.
    """
    number = max((r.epoch.number for r in reports.values() if r.epoch is not None), default=0) + 1
    everybody = reports
    reports, brought = _one_lineage(reports, majority=majority)
    base, digest, holders, rejected = _base(reports)
    behind = [r for r in reports.values() if _one_behind(r, base, rejected) or (holders and _partook(r, base))]
    work = max((reports[peer].work for peer in holders), default=max(r.work for r in reports.values()))
    if not behind and (reason := _rejection(reports, base, max_attempts)):
        base, digest, holders, rejected = base + 1, 0, (), reason
    state = _majority(r.state for r in reports.values() if r.pending == base + 1 and r.state)
    origin = max(r.origin for r in reports.values())
    members = tuple(
        Member(peers[peer], _since(reports[peer], base, digest, holders, rejected, state))
        for peer in _ring_order(peers, reports)
    )
    electorates = _electorates(reports, everybody, peers) if majority else ()
    decision = Decision(base, digest, holders, work, rejected, tuple(lost), origin, brought, electorates)
    return Epoch(number, ballot, members), decision


def _one_lineage(
    reports: Mapping[PeerId, Report], *, majority: bool
) -> tuple[Mapping[PeerId, Report], tuple[PeerId, ...]]:
    """The reports with those of all lineages but the heaviest made newcomers', and whose those are."""
    lineages = lineages_of(reports.values())
    if len(lineages) < 2:
        return reports, ()
    carrying = [lineage for lineage, members in lineages.items() if majority and _carries(members)]
    standings = {lineage: _standing(lineages[lineage]) for lineage in carrying or lineages}
    best = reduce(lambda one, other: other if standings[one].lighter_than(standings[other]) else one, standings)
    staying = {report.peer for report in lineages[best]}
    brought = {report.peer for members in lineages.values() for report in members if report.peer not in staying}
    newcomers = {peer: Report(peer, None) for peer in brought}
    return {**reports, **newcomers}, tuple(sorted(brought))


def _newest(members: Sequence[Report]) -> Epoch:
    return max((r.epoch for r in members if r.epoch is not None), key=lambda epoch: (epoch.number, epoch.ballot))


def _carries(members: Sequence[Report]) -> bool:
    return carries(_newest(members).ids, gather(report.electorates for report in members))


def _electorates(
    prevailing: Mapping[PeerId, Report], everybody: Mapping[PeerId, Report], members: Collection[PeerId]
) -> tuple[Electorate, ...]:
    """What counts in the new epoch: what counted in a lineage that had the majority, otherwise what counted anywhere.

    What those remember that dropped out counts unless the lineage has gone on since.
    """
    own = [report for report in prevailing.values() if report.epoch is not None]
    counted = list(everybody.values())
    if own and _carries(own):
        number = _newest(own).number
        counted = own + [report for report in everybody.values() if report.epoch is None and report.number >= number]
    return succeed(gather(report.electorates for report in counted), members)


def _standing(members: Sequence[Report]) -> Standing:
    epoch = _newest(members)
    work, origin = max(r.work for r in members), max(r.origin for r in members)
    return Standing(len(members), work, epoch.number, epoch.tag, origin)


def _established(report: Report) -> bool:
    """Whether the reporter holds an outcome of its own; a newcomer before its first round does not."""
    return report.epoch is not None and (report.digest != 0 or report.rejected != "")


def _one_behind(report: Report, base: int, rejected: str) -> bool:
    """Whether the reporter missed only the outcome of ``base``: it was there when that was decided, with its input.

    (A rejection is decided without.)
    """
    there = report.pending == base or rejected != ""
    return report.completed == base - 1 and _established(report) and there


def _partook(report: Report, round: int) -> bool:
    """Whether ``round`` is the reporter's first and it has put its input in: others may have completed it with that."""
    if report.epoch is None or report.pending != round:
        return False
    return any(member.id == report.peer for member in report.epoch.newcomers(round))


def _base(reports: Mapping[PeerId, Report]) -> tuple[int, int, tuple[PeerId, ...], str]:
    established = [r for r in reports.values() if _established(r)]
    if not established:
        return max(r.completed for r in reports.values()), 0, (), ""
    base = max(r.completed for r in established)
    at_base = [r for r in established if r.completed == base]
    rejection = next((r.rejected for r in at_base if r.rejected), "")
    if rejection:
        return base, 0, (), rejection
    digest = _majority(r.digest for r in at_base)
    return base, digest, tuple(sorted(r.peer for r in at_base if r.digest == digest)), ""


def _majority(values: Iterable[int]) -> int:
    """The most frequent value (the largest of those, so that all reporters' order is the same); 0 for none."""
    votes = Counter(values)
    return max(votes, key=lambda value: (votes[value], value), default=0)


def _rejection(reports: Mapping[PeerId, Report], base: int, max_attempts: int) -> str:
    pending = [r for r in reports.values() if r.pending == base + 1]
    schemas: dict[int, list[str]] = {}
    for report in sorted(pending, key=lambda r: r.peer):
        schemas.setdefault(report.schema, []).append(short(report.peer))
    if len(schemas) > 1:
        groups = " but ".join(f"{', '.join(who)} brought {schema:016x}" for schema, who in schemas.items())
        return f"tensors or operation differ between peers: {groups}"
    if pending and max(r.attempts for r in pending) >= max_attempts:
        why = next((r.broken for r in pending if r.broken), "it broke each time")
        return f"given up after {max_attempts} attempts: {why}"
    return ""


def _since(report: Report, base: int, digest: int, holders: Collection[PeerId], rejected: str, state: int) -> int:
    """The first round of this member in the lineage; ``base + 1`` makes it a newcomer.

    A result that nobody holds (all are newcomers themselves) is not to be had: who took part in it starts anew.
    """
    if _partook(report, base) and holders:
        return base
    if not _established(report) or report.epoch is None:
        return base + 1
    holds = report.completed == base and report.digest == digest
    fits = holds or _one_behind(report, base, rejected)
    since = next((m.since for m in report.epoch.members if m.id == report.peer), base + 1)
    deviates = report.pending == base + 1 and report.state not in (0, state)
    if not fits or deviates or (rejected and since == base):
        # A newcomer's first round was rejected: no snapshot was taken for it, its first round is the next one.
        return base + 1
    return min(since, base + 1)


def _ring_order(peers: Mapping[PeerId, PeerInfo], reports: Mapping[PeerId, Report]) -> list[PeerId]:
    """Members stay in the order of the most advanced epoch; newcomers follow by id."""
    epochs = [r.epoch for r in reports.values() if r.epoch is not None]
    newest = max(epochs, key=lambda e: (e.number, e.ballot), default=None)
    old = [peer for peer in (newest.ids if newest is not None else ()) if peer in peers]
    return old + sorted(peer for peer in peers if peer not in old)
