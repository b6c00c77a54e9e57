"""The kinds of mishaps: what each is, whom it may hit, how long it lasts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal

Need = Literal["network", "disk"]


@dataclass(frozen=True, slots=True)
class Mishap:
    """Something that happens to some machines.

    deed: what is done (a method of ``deeds.Deeds``).  victims: machines, by number from 0.  others: the machines that a
    cut is about.  after: seconds from the beginning of the disturbance.  lasts: seconds until it is undone.
    strength: of what has one; what it means is the deed's own affair.
    """

    deed: str
    victims: tuple[int, ...]
    after: float = 0.0
    lasts: float = 0.0
    others: tuple[int, ...] = ()
    strength: float = 0.0


@dataclass(frozen=True, slots=True)
class Draw:
    """What a kind draws its mishaps from.  The last of ``machines`` is the witness, which is killed only with all."""

    random: Random
    machines: tuple[int, ...]

    def some(self, least: int, most: int, *, killable: bool = False) -> tuple[int, ...]:
        """So many different machines; ``killable``: not the witness."""
        pool = self.machines[:-1] if killable else self.machines
        count = self.random.randint(min(least, len(pool)), min(most, len(pool)))
        return tuple(sorted(self.random.sample(pool, count)))

    def seconds(self, least: float, most: float) -> float:
        """Evenly over the orders of magnitude: short and long ones are equally likely."""
        return round(float(least * (most / least) ** self.random.random()), 3)

    def rest(self, victims: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(machine for machine in self.machines if machine not in victims)


Drawing = Callable[[Draw], list[Mishap]]


@dataclass(frozen=True, slots=True)
class Kind:
    """about: one line for people.  needs: without it the kind is left out.

    kills: recovery is from the last death to the next round of those who were left in peace; else from the end of the
    last mishap to the next round of all.  rare: only once in so many turns.
    """

    about: str
    draw: Drawing
    needs: frozenset[Need] = frozenset()
    kills: bool = False
    rare: int = 1


KINDS: dict[str, Kind] = {}
_NETWORK: frozenset[Need] = frozenset({"network"})
_DISK: frozenset[Need] = frozenset({"disk"})


def _kind(
    name: str,
    about: str,
    *,
    needs: frozenset[Need] = frozenset(),
    kills: bool = False,
    rare: int = 1,
) -> Callable[[Drawing], Drawing]:
    def register(draw: Drawing) -> Drawing:
        KINDS[name] = Kind(about, draw, needs, kills, rare)
        return draw

    return register


# -- deaths ----------------------------------------------------------------------------------------------


def _killed(draw: Draw, victim: int, *, after: float = 0.0, least: float = 0.5, most: float = 4.0) -> Mishap:
    """Dead for a while, then started again: with the disk that it had (strength 1) or a new one (0)."""
    return Mishap("kill", (victim,), after, draw.seconds(least, most), strength=draw.random.randint(0, 1))


@_kind("kill", "SIGKILL to one", kills=True)
def _kill(draw: Draw) -> list[Mishap]:
    return [_killed(draw, *draw.some(1, 1, killable=True))]


@_kind("kill-two", "SIGKILL to two at once", kills=True)
def _kill_two(draw: Draw) -> list[Mishap]:
    return [_killed(draw, victim) for victim in draw.some(2, 2, killable=True)]


@_kind("kill-again", "SIGKILL to another one while the others recover from the first", kills=True)
def _kill_again(draw: Draw) -> list[Mishap]:
    victims = draw.some(2, 2, killable=True)
    return [_killed(draw, victim, after=draw.seconds(0.01, 0.6) * turn) for turn, victim in enumerate(victims)]


@_kind("kill-most", "SIGKILL to all but one", kills=True)
def _kill_most(draw: Draw) -> list[Mishap]:
    return [_killed(draw, victim) for victim in draw.machines[:-1]]


@_kind("kill-while-joining", "SIGKILL to one while another one joins", kills=True)
def _kill_while_joining(draw: Draw) -> list[Mishap]:
    joiner, *others = draw.random.sample(draw.machines[:-1], min(2, len(draw.machines) - 1))
    coming = Mishap("kill", (joiner,), 0.0, 0.2, strength=0)
    return [coming, *(_killed(draw, donor, after=draw.seconds(0.4, 2.0)) for donor in others)]


@_kind("kill-all", "SIGKILL to all; they are started again from their disks", kills=True, rare=8)
def _kill_all(draw: Draw) -> list[Mishap]:
    return [Mishap("kill_all", draw.machines, lasts=draw.seconds(0.2, 1.0))]


@_kind("power", "one is gone without a word: no reset, no refusal", needs=_NETWORK, kills=True)
def _power(draw: Draw) -> list[Mishap]:
    return [Mishap("power", draw.some(1, 1, killable=True), lasts=draw.seconds(1.0, 6.0), strength=1)]


@_kind("leave", "SIGTERM to one", kills=True)
def _leave(draw: Draw) -> list[Mishap]:
    return [Mishap("leave", draw.some(1, 1, killable=True), lasts=draw.seconds(0.5, 4.0), strength=1)]


@_kind("churn", "kills and joins one after the other, whatever the swarm is doing", kills=True)
def _churn(draw: Draw) -> list[Mishap]:
    # Each but the witness in turn, before the one before is back, or while it joins.
    order = draw.random.sample(draw.machines[:-1], len(draw.machines) - 1)
    times = [round(turn * 1.5 + draw.random.random(), 3) for turn in range(len(order))]
    return [_killed(draw, victim, after=after, least=0.3, most=3.0) for victim, after in zip(order, times, strict=True)]


# -- processes and machines --------------------------------------------------------------------------


# Those that were stopped find each other when they wake, and go on as one side of a split.
@_kind("stop", "SIGSTOP to some or all, later SIGCONT")
def _stop(draw: Draw) -> list[Mishap]:
    return [Mishap("stop", draw.some(1, len(draw.machines)), lasts=draw.seconds(0.1, 15.0))]


@_kind("load", "twice as many busy processes as cores")
def _load(draw: Draw) -> list[Mishap]:
    return [Mishap("load", (), lasts=draw.seconds(1.0, 6.0))]


@_kind("disk", "the disk of some is full", needs=_DISK)
def _disk(draw: Draw) -> list[Mishap]:
    return [Mishap("disk", draw.some(1, 2), lasts=draw.seconds(0.5, 3.0))]


# -- networks ------------------------------------------------------------------------------------------


@_kind("close", "all connections of one are closed under it", needs=_NETWORK)
def _close(draw: Draw) -> list[Mishap]:
    return [Mishap("close", draw.some(1, 1))]


# Who is refused wherever it calls is as good as dead to the others, and they to it.
@_kind("reset", "for a moment every packet of one is answered by a reset", needs=_NETWORK)
def _reset(draw: Draw) -> list[Mishap]:
    return [Mishap("reset", draw.some(1, 1), lasts=draw.seconds(0.05, 1.0))]


@_kind("blip", "one is cut off for less than a second", needs=_NETWORK)
def _blip(draw: Draw) -> list[Mishap]:
    victims = draw.some(1, 1)
    return [Mishap("cut", victims, lasts=draw.seconds(0.05, 0.9), others=draw.rest(victims))]


@_kind("isolate", "one is cut off for seconds", needs=_NETWORK)
def _isolate(draw: Draw) -> list[Mishap]:
    victims = draw.some(1, 1)
    return [Mishap("cut", victims, lasts=draw.seconds(2.0, 20.0), others=draw.rest(victims))]


@_kind("one-way", "one does not hear some of the others, or is not heard by them", needs=_NETWORK)
def _one_way(draw: Draw) -> list[Mishap]:
    victims = draw.some(1, 1)
    rest = draw.rest(victims)
    others = tuple(sorted(draw.random.sample(rest, draw.random.randint(1, len(rest)))))
    deed = draw.random.choice(("deafen", "silence"))
    return [Mishap(deed, victims, lasts=draw.seconds(0.2, 10.0), others=others)]


@_kind("loss", "some lose 5 to 30 % of what they should hear", needs=_NETWORK)
def _loss(draw: Draw) -> list[Mishap]:
    victims = draw.some(1, len(draw.machines))
    return [Mishap("loss", victims, lasts=draw.seconds(1.0, 8.0), strength=round(draw.random.uniform(0.05, 0.3), 2))]


@_kind("rate", "one has a link of 0.2 to 8 Mbit/s", needs=_NETWORK)
def _rate(draw: Draw) -> list[Mishap]:
    return [Mishap("rate", draw.some(1, 1), lasts=draw.seconds(1.0, 8.0), strength=draw.seconds(0.2, 8.0))]


@_kind("partitions", "the network falls in two for seconds", needs=_NETWORK)
def _partitions(draw: Draw) -> list[Mishap]:
    side = draw.some(2, max(2, len(draw.machines) // 2))
    return [Mishap("cut", side, lasts=draw.seconds(2.0, 20.0), others=draw.rest(side))]
