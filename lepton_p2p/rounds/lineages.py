"""Which of the members that meet are of one lineage: its epochs follow each other, and a split makes two of one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from lepton_p2p.rounds.messages import Passed, Report


def lineages_of(reports: Iterable[Report]) -> dict[int, list[Report]]:
    """The lineages by the tag of the newest epoch of each, with all who are in that or in one that it has come through.

    Those of one epoch are of one lineage: who has just come to it may not know those before, others there do.  Who was
    left behind where two began belongs to both.  Who has gone on in an epoch that the others left at an earlier round,
    and have gone on from, is of another lineage.
    """
    placed = [(report, report.epoch.tag) for report in reports if report.epoch is not None]
    ends: dict[int, dict[int, int]] = {}
    for report, tag in placed:
        known = ends.setdefault(tag, {})
        for earlier, end in _ends(report.passed):
            known[earlier] = min(end, known.get(earlier, end))

    def belongs(report: Report, tag: int, head: int) -> bool:
        """Whether a reporter in the epoch ``tag`` is in the lineage of ``head``, perhaps behind."""
        if tag == head:
            return True
        end = ends[head].get(tag)
        if end is None:
            return False
        later = [other for other, its in placed if its == head or (its in ends[head] and tag in ends[its])]
        return report.completed <= end or all(other.completed <= end for other in later)

    heads = {tag for report, tag in placed if not any(belongs(report, tag, other) for other in ends if other != tag)}
    # Nobody is behind itself; only reports that contradict each other leave none.
    return {head: [report for report, tag in placed if belongs(report, tag, head)] for head in sorted(heads or ends)}


def _ends(passed: Sequence[Passed]) -> list[tuple[int, int]]:
    """Epochs, and the round after which the lineage left each for the next one that the reporter knows."""
    return [(one.tag, then.base) for one, then in pairwise(passed)]
