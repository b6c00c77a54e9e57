"""Which states a replica has gone through: how two that were apart find the last one that they had in common.

A state is named by its *chain*, a hash over all rounds that led to it.  Not every one is remembered: a split can only
begin where somebody that had a claim fell away, so that a trail holds the states around those moments, and the first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

MOST = 24
"""Marks of one trail.  A side that lost members at more moments than half of that during one split no longer knows
where it began; then the lighter side's work is dropped, with a warning."""


class Mark(NamedTuple):
    """A state.  samples, skips, work: what had been done in all until then (see ``Cursor``)."""

    chain: int
    samples: int
    skips: int
    work: int


class Gain(NamedTuple):
    """A branch that was brought in: ``chain`` of its end, ``at``: work in the state that it was brought into, and what
    that has got by it.
    """

    chain: int
    at: int
    samples: int
    skips: int
    work: int


def link(chain: int, *parts: bytes) -> int:
    """64 bits that name what follows on the state ``chain`` by ``parts``; never 0."""
    digest = hashlib.blake2b(chain.to_bytes(8, "big"), digest_size=8)
    for part in parts:
        digest.update(len(part).to_bytes(4, "big") + part)
    return int.from_bytes(digest.digest(), "big") or 1


def remember(trail: tuple[Mark, ...], marks: Iterable[Mark]) -> tuple[Mark, ...]:
    """``trail`` with ``marks`` behind it, each once: the first stays, of the others the newest ``MOST`` - 1."""
    known = {mark.chain: mark for mark in trail}
    known |= {mark.chain: mark for mark in marks if mark.chain not in known}
    first, others = tuple(known.values())[:1], tuple(known.values())[1:]
    return first + others[-(MOST - 1) :]


def gather(gains: Iterable[Gain]) -> tuple[Gain, ...]:
    """Each branch once, the newest ``MOST`` // 3."""
    return tuple({gain.chain: gain for gain in gains}.values())[-(MOST // 3) :]


def common(root: Mark, one: Iterable[Gain], other: Iterable[Gain]) -> Mark:
    """What two have in common that parted at ``root``: that, and branches that both have brought in since then, in the
    same round (they can have parted in that very one).

    A branch that they brought in each by itself has its own states on both trails, and may be where ``root`` is.
    """
    theirs = set(other)
    both = [gain for gain in one if gain in theirs and gain.at >= root.work]
    return root._replace(
        samples=root.samples + sum(gain.samples for gain in both),
        skips=root.skips + sum(gain.skips for gain in both),
        work=root.work + sum(gain.work for gain in both),
    )


def fork(
    one: Iterable[Mark], other: Iterable[Mark], ours: Iterable[Gain] = (), theirs: Iterable[Gain] = ()
) -> Mark | None:
    """The state that is in both and with which they have the most in common (see ``common``); None if there is none."""
    known = {mark.chain for mark in other}
    gains = tuple(ours), tuple(theirs)

    def size(mark: Mark) -> tuple[int, int]:
        shared = common(mark, *gains)
        return shared.work, shared.samples

    return max((mark for mark in one if mark.chain in known), key=size, default=None)
