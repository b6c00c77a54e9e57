"""A swarm that does nothing but know its members: the SWIM machines of a daemon on a virtual clock and network."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

from stamps import Stamps, stamp
from wire_sizes import WireSizes

from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.membership import Died, Packet, Rumour, Status, Suspected, Swim, SwimEvent, Table
from lepton_p2p.presets import Preset, timings
from lepton_p2p.sansio import SetTimer
from lepton_p2p.simulation.machine import Clock, MachineRunner
from lepton_p2p.simulation.network import Door, Network
from lepton_p2p.simulation.scheduler import Scheduler
from lepton_p2p.simulation.weather import Weather

DELAY: dict[Preset, float] = {"local": 0.0001, "lan": 0.001, "wan": 0.05}
"""Usual seconds on the way, one direction: half to one and a half times as many."""
KILLS_FROM, KILLS_UNTIL = 0.2, 0.3
"""The part of a run in which members are killed; before it all is quiet, after it the others find out."""


@dataclass(frozen=True, slots=True)
class Plan:
    """``swarms`` of ``peers`` members, each for ``seconds``, with ``kills`` that lose their power.

    loss: share of the calls that fail.  signed: claims are, as in a swarm with credentials.  Raises ``ValueError`` (one
    line) for what cannot be.
    """

    peers: int
    seconds: float
    kills: int
    loss: float
    preset: Preset
    seed: int
    swarms: int = 1
    signed: bool = False

    def __post_init__(self) -> None:
        most = timings(self.preset).swim.max_members
        if not 3 <= self.peers <= most:
            raise ValueError(f"a swarm has 3 to {most} members here, not {self.peers}")
        if not 0 <= self.kills <= self.peers - 2:
            raise ValueError(f"of {self.peers} members 0 to {self.peers - 2} can be killed, not {self.kills}")
        if not 0 <= self.loss < 1:
            raise ValueError(f"the share of lost calls is from 0 to below 1, not {self.loss}")
        if not 0 < self.seconds < math.inf or self.swarms < 1:
            raise ValueError("some time has to pass, in at least one swarm: see --seconds and --swarms")


@dataclass(slots=True)
class Observations:
    """What was seen, over one or more swarms.

    first, last: seconds from each kill until a member knew of it, and until all did.  delays: until each member did.
    missed: pairs of a member and a killed one of which it never knew.  false_deaths, false_suspicions: events about
    members that ran, counted at every member that believed it; mistaken: how many members they were about.
    member_seconds: of running members.  signatures: made, and verified for the first time by a member.
    packets, bytes, quiet_bytes: by the kind of body; quiet: before the kills.
    """

    first: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    missed: int = 0
    false_deaths: int = 0
    false_suspicions: int = 0
    mistaken: int = 0
    member_seconds: float = 0.0
    quiet_member_seconds: float = 0.0
    packets: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    quiet_bytes: Counter[str] = field(default_factory=Counter)
    signatures: Counter[str] = field(default_factory=Counter)

    def add(self, other: Observations) -> None:
        """What was seen of one more swarm."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


class Member:
    """One virtual process with nothing but its ``swim`` machine."""

    def __init__(self, swarm: VirtualMembers, swim: Swim) -> None:
        self.swim, self.alive = swim, True
        self._swarm = swarm
        self._runner = MachineRunner(
            swim, swarm.scheduler, Clock(), run=self._run, send=self._send, on_event=partial(swarm.witness, self)
        )

    def feed(self, step: Callable[[float], Any]) -> None:
        """``step(now)`` calls a method of the machine."""
        if self.alive:
            self._runner.feed(step)

    def kill(self) -> None:
        """Its machine has lost its power: nothing answers there any more."""
        self.alive = False
        self._runner.stop()

    def _run(self, call: Callable[[], None]) -> None:
        if self.alive:
            call()

    def _send(self, to: str, packet: Packet) -> None:
        me, network = self.swim.me.address, self._swarm.network
        if network.reaches(me, to):  # else there is no connection, and nothing of the packet leaves
            self._swarm.count(packet)
        network.call(me, to, partial(self._swarm.arrive, to, packet), partial(self._ended, to, packet))

    def _ended(self, to: str, packet: Packet, ok: bool) -> None:
        if not ok:
            self.feed(lambda now: self.swim.send_failed(now, to, packet))


class VirtualMembers:
    """The swarm of ``plan``; :meth:`run` lets its time pass and tells what was seen."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._rng = random.Random(plan.seed)
        self.scheduler = Scheduler()
        preset = timings(plan.preset)
        self._config = preset.swim
        weather = Weather(delay=DELAY[plan.preset], loss=plan.loss)
        # A daemon gives up a call after the same time (``NodeOptions.call_timeout``).
        self.network = Network(self.scheduler, self._rng, weather, preset.agreement.promise_timeout)
        self.seen = Observations()
        self._sizes = WireSizes()
        self._killed: dict[PeerId, float] = {}
        self._noticed: dict[PeerId, dict[PeerId, float]] = {}
        self._mistaken: set[PeerId] = set()
        self.members = self._grow()

    def run(self) -> Observations:
        """Let all of its time pass."""
        plan, seen = self._plan, self.seen
        begin, end = KILLS_FROM * plan.seconds, KILLS_UNTIL * plan.seconds
        self.scheduler.run(begin)
        seen.quiet_bytes = seen.bytes.copy()
        seen.quiet_member_seconds = begin * plan.peers
        for number, victim in enumerate(self._rng.sample(list(self.members.values()), plan.kills)):
            self.scheduler.run(begin + (end - begin) * number / plan.kills)
            self.kill(victim)
        self.scheduler.run(plan.seconds)
        self._conclude()
        return seen

    def kill(self, victim: Member) -> None:
        """Now."""
        self.network.power(victim.swim.me.address, on=False)
        victim.kill()
        self._killed[victim.swim.me.id] = self.scheduler.now
        self._noticed[victim.swim.me.id] = {}

    def arrive(self, to: str, packet: Packet) -> Door:
        """A packet gets to ``to``."""
        member = self.members[to]
        member.feed(lambda now: member.swim.receive(now, packet))
        return Door.OPEN

    def count(self, packet: Packet) -> None:
        """It was sent."""
        kind = type(packet.body).__name__
        self.seen.packets[kind] += 1
        self.seen.bytes[kind] += self._sizes.packet(packet)

    def witness(self, member: Member, event: SwimEvent) -> None:
        """A machine told the room above."""
        if isinstance(event, Died):
            noticed = self._noticed.get(event.peer.id)
            if noticed is not None:
                noticed.setdefault(member.swim.me.id, self.scheduler.now)
            else:
                self.seen.false_deaths += 1
                self._mistaken.add(event.peer.id)
        elif isinstance(event, Suspected) and event.peer.id not in self._killed:
            self.seen.false_suspicions += 1

    def _conclude(self) -> None:
        seen = self.seen
        survivors = {member.swim.me.id for member in self.members.values() if member.alive}
        for victim, at in self._killed.items():
            delays = [when - at for who, when in self._noticed[victim].items() if who in survivors]
            seen.missed += len(survivors) - len(delays)
            seen.delays += delays
            if delays:
                seen.first.append(min(delays))
                seen.last.append(max(delays))
        seen.mistaken = len(self._mistaken)
        lived = sum(self._killed.values()) + self._plan.seconds * len(survivors)
        seen.member_seconds = lived

    def _grow(self) -> dict[str, Member]:
        """A swarm that has been together for long.

        Joining one by one would cost the square of the number of peers, and show the joining and not the rest.  So
        every machine begins with a copy of one table in which all are alive; what is in the tables is shared between
        them until it changes.  With a table a machine is no newcomer, and exchanges full state at the usual pace.
        What remains is that all started at once: the first exchange is put anywhere in its period, as it would
        be after a while.  (Probes begin anywhere in theirs by themselves.)
        """
        infos = [made_up(number) for number in range(self._plan.peers)]
        everybody = Table(self._config.max_members)
        for info in infos:
            fact = Rumour(info, Status.ALIVE, 0, info.id)
            everybody.apply(replace(fact, word=stamp(info.id, fact)) if self._plan.signed else fact, 0.0)
        usual = self._config.sync_every(len(infos))
        members = {}
        for info in infos:
            notary = Stamps(info.id, self.seen.signatures) if self._plan.signed else None
            swim = Swim(info, self._config, self._rng, everybody.without(info.id), notary)
            members[info.address] = member = Member(self, swim)
            member.feed(partial(self._start, swim, self._rng.random() * usual))
        return members

    @staticmethod
    def _start(swim: Swim, first_exchange: float, now: float) -> list[Any]:
        effects = swim.start(now)
        return [
            SetTimer(e.key, now + first_exchange) if isinstance(e, SetTimer) and e.key == "sync" else e for e in effects
        ]


def made_up(number: int) -> PeerInfo:
    """The ``number``-th peer: an id and an address of the usual length."""
    return PeerInfo(
        PeerId(f"{random.Random(number).getrandbits(128):032x}"),
        f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}:7700",
    )
