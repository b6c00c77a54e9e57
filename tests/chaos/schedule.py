"""Which disturbances a seed stands for, in which order; pure, so that a seed is the whole story that was planned."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from itertools import count
from random import Random

from chaos.kinds import KINDS, Draw, Kind, Mishap, Need

SECOND = 0.2
"""How often a disturbance of another kind comes on top, to machines that the first one spares."""
ON_TOP = ("stop", "load", "disk", "close", "reset", "blip", "one-way", "loss", "rate")
"""Kinds that may."""


@dataclass(frozen=True, slots=True)
class Disturbance:
    """Mishaps that belong together, beginning after a ``pause`` (seconds) in which nothing happens."""

    number: int
    kinds: tuple[str, ...]
    pause: float
    mishaps: tuple[Mishap, ...]

    @property
    def name(self) -> str:
        """Its kinds."""
        return "+".join(self.kinds)

    @property
    def kills(self) -> bool:
        return KINDS[self.kinds[0]].kills

    @property
    def victims(self) -> frozenset[int]:
        """Machines that something is done to; a cut is something done to one end of it only."""
        return frozenset(victim for mishap in self.mishaps for victim in mishap.victims)

    def __str__(self) -> str:
        return f"{self.number:4} {self.name}: " + "; ".join(_told(mishap) for mishap in self.mishaps)


def _told(mishap: Mishap) -> str:
    parts = [mishap.deed]
    if mishap.victims:
        parts.append(",".join(map(str, mishap.victims)))
    if mishap.others:
        parts.append("from " + ",".join(map(str, mishap.others)))
    if mishap.after:
        parts.append(f"after {mishap.after:g} s")
    if mishap.lasts:
        parts.append(f"for {mishap.lasts:g} s")
    if mishap.strength:
        parts.append(f"strength {mishap.strength:g}")
    return " ".join(parts)


def usable(names: Collection[str], available: Collection[Need]) -> list[str]:
    """The kinds of ``names`` (all, if none is named) that can be had with what is available."""
    chosen = [name for name in KINDS if not names or name in names]
    return [name for name in chosen if KINDS[name].needs <= set(available)]


def schedule(seed: int, machines: int, kinds: Collection[str]) -> Iterator[Disturbance]:
    """Without end.  In each turn every kind comes once (rare ones now and then), in an order of its own."""
    random = Random(seed)
    draw = Draw(random, tuple(range(machines)))
    number = 0
    for turn in count():
        names = [name for name in KINDS if name in kinds and turn % KINDS[name].rare == 0]
        random.shuffle(names)
        for name in names:
            yield _disturbance(number, name, draw, kinds)
            number += 1


def turn_of(kinds: Collection[str]) -> int:
    """How many disturbances the first turn has, in which all kinds come."""
    return len([name for name in KINDS if name in kinds])


def _disturbance(number: int, name: str, draw: Draw, kinds: Collection[str]) -> Disturbance:
    kind = KINDS[name]
    pause = draw.seconds(0.3, 3.0)
    names, mishaps = [name], kind.draw(draw)
    others = [other for other in ON_TOP if other in kinds and other != name]
    if others and draw.random.random() < SECOND:
        extra = draw.random.choice(others)
        hit = {victim for mishap in mishaps for victim in mishap.victims}
        on_top = [mishap for mishap in _begun_later(KINDS[extra], draw) if hit.isdisjoint(mishap.victims)]
        if on_top:
            names, mishaps = [*names, extra], [*mishaps, *on_top]
    return Disturbance(number, tuple(names), pause, tuple(mishaps))


def _begun_later(kind: Kind, draw: Draw) -> list[Mishap]:
    after = draw.seconds(0.05, 1.0)
    return [replace(mishap, after=round(mishap.after + after, 3)) for mishap in kind.draw(draw)]
