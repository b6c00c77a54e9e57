"""One seed: a swarm is born, things go wrong, the network heals, and it must recover."""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable

from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.membership import Status
from lepton_p2p.replication import vigil
from lepton_p2p.simulation.mishaps import MISHAPS
from lepton_p2p.simulation.network import Network
from lepton_p2p.simulation.oracle import Oracle, Violation
from lepton_p2p.simulation.peer import Timings, VirtualPeer
from lepton_p2p.simulation.plan import Outcome, Plan
from lepton_p2p.simulation.replica import State
from lepton_p2p.simulation.scheduler import Scheduler
from lepton_p2p.simulation.telling import plain, where
from lepton_p2p.simulation.trainer import initial_state
from lepton_p2p.simulation.weather import Weather

MOST_STEPS = 3_000_000
"""Events of one run; more means that something goes round in circles."""
_LOOK_EVERY = 64
"""Events between two looks whether what is waited for has come about."""
_QUIET = 3.0
"""Seconds, and two rounds, after the recovery in which whatever is left over must go away."""
_SLOWEST = 6.0
"""Times the usual pace: what the slowest peer may take for a step."""
_QUIET_RATE = 10.0
"""Control messages per member and second besides gossip: probes and their answers, exchanges, announcements."""


class VirtualSwarm:
    """``trace``: gets a line for everything of interest, as (seconds, who, what)."""

    _process = VirtualPeer

    def __init__(self, plan: Plan, trace: Callable[[float, str, str], None] | None = None) -> None:
        self.rng = rng = random.Random(plan.seed)
        self._plan, self._trace = plan, trace
        self.scheduler = Scheduler()
        self.oracle = Oracle(majority=plan.majority)
        preset = rng.choice(("local", "local", "lan"))
        self._timings = Timings.preset(preset)
        self.weather = Weather.draw(rng, plan.kinds)
        self.network = Network(self.scheduler, rng, self.weather, self._timings.agreement.promise_timeout)
        self._peers: dict[str, VirtualPeer] = {}
        self._disks: dict[str, list[State]] = {}
        self._interval = rng.choice((1.0, 3.0, 10.0, 1000.0))
        self._written: dict[str, float] = {}
        self._hosts = 0
        self._storming = True
        # Most goes wrong among few: each doubling of the size comes as often as the next.
        count = round(plan.fewest * (plan.most / plan.fewest) ** rng.random())
        self._length = rng.choice((2, 5, 8 * count, 24))
        self._total, self._batch = rng.randint(1, 60) * 3, rng.randint(1, 8)
        self._speed = 10 ** rng.uniform(-0.8, 0.3)
        self._seeds = [_address(index) for index in range(min(count, rng.randint(1, 3)))]
        for _ in range(count):
            self.scheduler.after(rng.random() * rng.choice((0.0, 1.0, 5.0)), self.join)

    # -- what peers find around them ---------------------------------------------------------------------

    def at(self, address: str) -> VirtualPeer | None:
        """Who listens there now."""
        peer = self._peers.get(address)
        return peer if peer is not None and peer.alive else None

    def guard(self, peer: VirtualPeer, call: Callable[[], None]) -> None:
        """Run ``call``; an exception is a broken invariant."""
        try:
            call()
        except Violation:
            raise
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            seen = f"{peer}: {type(error).__name__}: {error} ({where.name}, line {where.lineno})"
            raise Violation("no-crash", seen) from error

    def note(self, peer: VirtualPeer, text: str, *details: object) -> None:
        """One line for the trace."""
        if self._trace is not None:
            self._trace(self.scheduler.now, repr(peer), " ".join([text, *map(plain, details)]))

    # -- what mishaps need ---------------------------------------------------------------------------------

    def running(self) -> list[VirtualPeer]:
        """Alive, not stopped, of this version, and oldest host first."""
        return [peer for peer in self._peers.values() if peer.running and peer.version == 1]

    def hosts(self) -> list[str]:
        """All addresses that ever had a process."""
        return list(self._peers)

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Do it then, if the storm lasts so long."""
        self.scheduler.after(seconds, lambda: call() if self._storming else None)

    def gave_up(self, peer: VirtualPeer) -> None:
        """It ended with an error; whoever runs it starts it again."""
        self.network.counts["gave up"] += 1
        peer.crash()
        self.scheduler.after(1.0 + 4 * self.rng.random(), self.restart, peer.info.address)

    def crash(self, peer: VirtualPeer, *, silently: bool) -> None:
        """Kill its process; ``silently``: its machine has no power, nothing answers there."""
        if silently:
            self.network.power(peer.info.address, on=False)
        peer.crash()

    def restart(self, host: str) -> None:
        """A new process where one was, with what the old one wrote down, only the oldest of it, or an empty disk."""
        old = self._peers[host]
        if old.alive:
            return
        self.network.power(host, on=True)
        disk = self._disks.get(host, [])
        known: list[PeerInfo] = []
        match self.rng.choice(("kept", "kept", "old", "lost")):
            case "lost":
                disk.clear()
            case "old":
                del disk[1:]
            case _:
                known = [view.peer for view in old.swim.members if view.peer != old.info]
        self._start(host, known, version=old.version)

    def stepped(self, peer: VirtualPeer) -> None:
        """Write a checkpoint to its disk, if it is time for one; the last three stay."""
        host, now = peer.info.address, self.scheduler.now
        if now - self._written.get(host, 0.0) >= self._interval:
            self._written[host] = now
            disk = self._disks.setdefault(host, [])
            disk.append(peer.trainer.state)
            del disk[:-3]

    def join(self) -> None:
        """A process on a machine that was not there before."""
        strange = "version" in self._plan.kinds and self._hosts >= 3 and self.rng.random() < 0.03
        self._hosts += 1
        self._start(_address(self._hosts - 1), [], version=2 if strange else 1)

    def _start(self, host: str, known: list[PeerInfo], *, version: int) -> None:
        rng = self.rng
        info = PeerInfo(PeerId(f"{rng.getrandbits(128):032x}"), host)
        seeds = [seed for seed in self._seeds if seed != host]
        peer = self._process(
            self,
            info,
            self._timings,
            self.weather.clock(rng),
            random.Random(rng.getrandbits(64)),
            initial=self._initial(host),
            speed=self._speed * rng.choice((1.0, 1.0, 1.0, 4.0)),
            version=version,
        )
        peer.agreement.majority = self._plan.majority
        self._peers[host] = peer
        self.note(peer, "starts")
        # Whoever was started without an address to join founds a swarm.
        peer.start(seeds, known, found=host == self._seeds[0] and (len(self._seeds) == 1 or self._hosts == 1))

    def _initial(self, host: str) -> State:
        """What a process there would start from: its newest checkpoint, or what the job says."""
        if disk := self._disks.get(host):
            state = disk[-1].resumed()
            self.oracle.resumed(disk[-1], state)
            return state
        state = initial_state(self._plan.seed & 0xFFFF, self._length, self._total, self._batch)
        self.oracle.began(state)
        return state

    # -- the two phases ------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Safety under everything, then liveness of those that can reach each other."""
        outcome = Outcome(seed=self._plan.seed)
        try:
            self._storm()
            core = self._heal()
            self._recover(core)
            outcome.recovery = self.scheduler.now - self._plan.storm
            outcome.waiting = any(peer.agreement.paused for peer in core)
            self._check_leftovers([peer.info.address for peer in core])
        except Violation as violation:
            outcome.violation = str(violation)
        outcome.peers = self._hosts
        outcome.simulated, outcome.steps = self.scheduler.now, self.scheduler.steps
        oracle = self.oracle
        outcome.united, outcome.doubled, outcome.abandoned = oracle.united, oracle.doubled, oracle.abandoned
        outcome.counted_high, outcome.majorities = oracle.counted_high, self._plan.majority
        outcome.rounds, outcome.recovered, outcome.retried = oracle.rounds, oracle.recovered, oracle.retried
        outcome.faults = self.network.counts
        return outcome

    def _storm(self) -> None:
        rng, storm = self.rng, self._plan.storm
        kinds = [kind for kind in MISHAPS if kind in self._plan.kinds]
        # Some kinds only in each seed: what never happens together with others would drown in them.
        kinds = rng.sample(kinds, rng.randint(1, len(kinds))) if kinds else []
        pause = storm / rng.uniform(2, 16)
        when = rng.uniform(1.0, 5.0)
        while kinds and when < storm:
            self.scheduler.after(when, self._happen, rng.choice(kinds))
            when += rng.expovariate(1 / pause)
        self.scheduler.run(storm)
        self._check_steps()

    def _happen(self, kind: str) -> None:
        if self._storming and MISHAPS[kind](self):
            self.network.counts[kind] += 1
            if self._trace is not None:
                self._trace(self.scheduler.now, "*", kind)

    def _heal(self) -> list[VirtualPeer]:
        """From now on some machines reach each other; the others stay as broken as they are, or become so."""
        self._storming = False
        rng = self.rng
        hosts = [host for host, peer in self._peers.items() if peer.version == 1]
        core = hosts if rng.random() < 0.5 else rng.sample(hosts, rng.randint(1, len(hosts)))
        # Who starts anew knows nobody but the seeds, and waits for them: one of them belongs to the core, and another
        # machine that may know of it.
        seed = rng.choice(self._seeds)
        core = list(dict.fromkeys([seed, *rng.sample([host for host in hosts if host != seed], 1), *core]))
        self.network.weather = self.weather.calm()
        self.network.heal(core)
        rest = [host for host in self._peers if host not in core]
        if rest:
            self.network.cut(rest, core)
            if rng.random() < 0.5:
                self.network.cut(core, rest)
        for host in core:
            peer = self._peers[host]
            peer.go_on()
            if peer.leaving:
                peer.crash()
            if not peer.alive:
                self.restart(host)
        if self._trace is not None:
            self._trace(self.scheduler.now, "*", f"heals; core: {' '.join(core)}")
        return [self._peers[host] for host in core]

    def _recover(self, core: list[VirtualPeer]) -> None:
        bound = self.bound
        hosts = [peer.info.address for peer in core]
        end = self.scheduler.now + bound
        goal: list[int] = []

        def recovered() -> bool:
            return self._together(hosts, goal)

        if not self.scheduler.run(end, recovered, every=_LOOK_EVERY):
            self._blame(hosts, bound)
        self._check_steps()

    @property
    def bound(self) -> float:
        """Seconds in which a healed core must be together again and go on; see docs/reliability.md."""
        swim, agreement = self._timings.swim, self._timings.agreement
        count = max(2, self._hosts)
        suspicion = swim.suspicion_multiplier * max(1.0, len(str(count))) * swim.probe_interval
        mourning = suspicion * swim.suspicion_max_multiplier + 2 * count * swim.probe_interval
        meeting = 4 * swim.reconnect_interval + 2 * swim.seed_retry_max + 4 * agreement.announce_interval
        agreed = agreement.founding_patience + 10 * agreement.install_timeout
        return mourning + meeting + agreed + vigil.PATIENCE + 20 * 4 * self._speed

    def _together(self, hosts: list[str], goal: list[int]) -> bool:
        """Whether all see exactly each other, are in one epoch with the same state, and three more rounds are done; or
        wait together for the majority (policy ``majority``)."""
        core = [self._peers[host] for host in hosts]
        if not self._in_one_epoch(core):
            return False
        if all(peer.agreement.paused for peer in core):
            return True
        if not all(peer.trainer.footing.established and not peer.trainer.carried for peer in core):
            return False
        if not goal:
            goal.append(max(peer.agreement.progress.completed for peer in core) + 3)
        return min(peer.agreement.progress.completed for peer in core) >= goal[0]

    def _in_one_epoch(self, core: list[VirtualPeer]) -> bool:
        """Whether all run, see exactly each other, and are in one epoch of just them."""
        if not all(peer.running for peer in core):
            return False
        ids = {peer.info.id for peer in core}
        epoch = core[0].agreement.epoch
        if epoch is None or set(epoch.ids) != ids or any(peer.agreement.epoch != epoch for peer in core):
            return False
        return all(self._sees_exactly(peer, ids) for peer in core)

    @staticmethod
    def _sees_exactly(peer: VirtualPeer, ids: set[PeerId]) -> bool:
        members = peer.swim.members
        return {view.peer.id for view in members} == ids and all(view.status is Status.ALIVE for view in members)

    def _blame(self, hosts: list[str], bound: float) -> None:
        core = [self._peers[host] for host in hosts]
        ids = {peer.info.id for peer in core}
        for peer in core:
            for view in peer.swim.view():
                if view.peer.id in ids and not view.live:
                    raise Violation("alive-for-good", f"{peer} believes {view.peer.address} {view.status.name}")
        for peer in core:
            if not self._sees_exactly(peer, ids):
                seen = ", ".join(view.peer.address for view in peer.swim.members)
                raise Violation("views-agree", f"{peer} sees {seen or 'nobody'} after {bound:.0f} s")
        raise Violation("liveness", f"after {bound:.0f} s: " + "; ".join(map(where, core)))

    def _check_steps(self) -> None:
        if self.scheduler.steps > MOST_STEPS:
            raise Violation("bounded", f"{self.scheduler.steps} events in one run")

    def _check_leftovers(self, hosts: list[str]) -> None:
        """When all is quiet nothing is kept for anybody, nothing waits, and few messages are sent."""
        core = [self._peers[host] for host in hosts]
        before, began = sum(self.network.calls[host] for host in hosts), self.scheduler.now

        def tidy() -> bool:
            return self.scheduler.now >= began + _QUIET and not any(peer.leftovers(hosts) for peer in core)

        # What is kept for a peer goes with the round after the one in which that said that it needs nothing more.
        self.scheduler.run(began + _QUIET + 2 * _SLOWEST * self._speed, tidy, every=_LOOK_EVERY)
        self._check_steps()
        seconds = self.scheduler.now - began
        for peer in core:
            if left := peer.leftovers(hosts):
                raise Violation("bounded", f"{peer} still keeps {left}")
        rate = (sum(self.network.calls[host] for host in hosts) - before) / seconds / len(core)
        swim = self._timings.swim
        if rate > swim.gossip_fanout / swim.gossip_interval + _QUIET_RATE:
            raise Violation("bounded", f"{rate:.1f} messages per member and second although nothing happens")


def _address(index: int) -> str:
    return f"host-{index}:7700"
