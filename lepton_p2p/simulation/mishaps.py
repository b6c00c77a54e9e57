"""What can happen to a swarm, and when: a plan that is drawn from the seed before anything runs."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Protocol

from lepton_p2p.simulation.network import Network
from lepton_p2p.simulation.peer import VirtualPeer

CONDITIONS = ("loss", "delay", "duplicate", "flip", "clock")
"""Kinds of faults that hold all the time (see ``Weather``)."""


class Swarm(Protocol):
    """What mishaps happen to."""

    network: Network
    rng: random.Random

    def running(self) -> list[VirtualPeer]: ...

    def hosts(self) -> list[str]: ...

    def later(self, seconds: float, call: Callable[[], None]) -> None: ...

    def crash(self, peer: VirtualPeer, *, silently: bool) -> None: ...

    def restart(self, host: str) -> None: ...

    def join(self) -> None: ...


Mishap = Callable[[Swarm], bool]
"""Does it; False if there is nobody that it could happen to."""


def _victim(swarm: Swarm, leave: int = 0) -> VirtualPeer | None:
    peers = swarm.running()
    return swarm.rng.choice(peers) if len(peers) > leave else None


def _lasting(rng: random.Random, least: float, most: float) -> float:
    """Seconds, every order of magnitude as likely as the others."""
    return math.exp(rng.uniform(math.log(least), math.log(most)))


def crash(swarm: Swarm) -> bool:
    """SIGKILL; perhaps a restart soon, late or never."""
    peer = _victim(swarm)
    if peer is None:
        return False
    silently = swarm.rng.random() < 0.3
    swarm.crash(peer, silently=silently)
    if swarm.rng.random() < 0.7:
        host = peer.info.address
        swarm.later(_lasting(swarm.rng, 0.05, 30), lambda: swarm.restart(host))
    return True


def crash_several(swarm: Swarm) -> bool:
    """Two or more at once, now and then all of them; they come back."""
    peers = swarm.running()
    if len(peers) < 2:
        return False
    count = len(peers) if swarm.rng.random() < 0.1 else swarm.rng.randint(2, max(2, len(peers) // 2))
    for peer in swarm.rng.sample(peers, count):
        swarm.crash(peer, silently=False)
        host = peer.info.address
        swarm.later(_lasting(swarm.rng, 0.05, 30), lambda host=host: swarm.restart(host))  # type: ignore[misc]
    return True


def pause(swarm: Swarm) -> bool:
    """SIGSTOP, and SIGCONT 0.1 to 60 s later."""
    peer = _victim(swarm)
    if peer is None:
        return False
    peer.stop()
    swarm.later(_lasting(swarm.rng, 0.1, 60), peer.go_on)
    return True


def leave(swarm: Swarm) -> bool:
    """A graceful goodbye."""
    peer = _victim(swarm, leave=1)
    if peer is None:
        return False
    peer.leave()
    return True


def withdraw(swarm: Swarm) -> bool:
    """A program interrupts itself in a round."""
    peer = _victim(swarm)
    if peer is None:
        return False
    peer.withdraw()
    return True


def join(swarm: Swarm) -> bool:
    """A machine that was not there before."""
    swarm.join()
    return True


def split(swarm: Swarm) -> bool:
    """A symmetric partition."""
    return _cut(swarm, both=True)


def one_way(swarm: Swarm) -> bool:
    """Some do not hear the others any more, but are heard."""
    return _cut(swarm, both=False)


def isolate(swarm: Swarm) -> bool:
    """One machine is cut off from all others."""
    hosts = swarm.hosts()
    if len(hosts) < 2:
        return False
    one = {swarm.rng.choice(hosts)}
    _until(swarm, [one], [set(hosts) - one], both=swarm.rng.random() < 0.6)
    return True


def clog(swarm: Swarm) -> bool:
    """Nothing gets through between two machines for a while."""
    hosts = swarm.hosts()
    if len(hosts) < 2:
        return False
    one, two = swarm.rng.sample(hosts, 2)
    swarm.network.clog(one, two, _lasting(swarm.rng, 0.1, 10))
    return True


def _cut(swarm: Swarm, *, both: bool) -> bool:
    hosts = swarm.hosts()
    if len(hosts) < 2:
        return False
    left = set(swarm.rng.sample(hosts, swarm.rng.randint(1, len(hosts) - 1)))
    _until(swarm, [left], [set(hosts) - left], both=both)
    return True


def _until(swarm: Swarm, left: list[set[str]], right: list[set[str]], *, both: bool) -> None:
    heals = [swarm.network.cut(left[0], right[0])]
    if both:
        heals.append(swarm.network.cut(right[0], left[0]))
    seconds = _lasting(swarm.rng, 0.5, 60)
    for heal in heals:
        swarm.later(seconds, heal)


MISHAPS: dict[str, Mishap] = {
    "crash": crash,
    "crash-several": crash_several,
    "pause": pause,
    "split": split,
    "one-way": one_way,
    "isolate": isolate,
    "clog": clog,
    "join": join,
    "leave": leave,
    "withdraw": withdraw,
}

FAULTS = (*CONDITIONS, "version", *MISHAPS)
"""All kinds, as ``--faults`` names them; "version": some speak another version of the protocol."""
