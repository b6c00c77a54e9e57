"""A deterministic network in memory: virtual clock, seeded delays and loss, partitions, kills and pauses.

Everything that every run must keep is checked on every packet, whatever the test is about.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count

from keyed_claims import Register

from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.membership import Effect, Packet, Rumour, Status, Swim, SwimConfig, SwimEvent, Sync
from lepton_p2p.sansio import CancelTimer, Emit, Send, SetTimer


def info(number: int, *, address: str | None = None) -> PeerInfo:
    """The ``number``-th made-up peer."""
    return PeerInfo(PeerId(f"{number:032x}"), address or f"10.0.{number // 250}.{number % 250 + 1}:7700")


@dataclass
class Node:
    """A process: its machine, what it announced (with the time), and its armed timers."""

    machine: Swim
    events: list[tuple[float, SwimEvent]] = field(default_factory=list)
    timers: dict[Hashable, float] = field(default_factory=dict)
    backlog: list[Callable[[], None]] = field(default_factory=list)
    paused: bool = False
    highest: int = 0

    @property
    def me(self) -> PeerInfo:
        return self.machine.me

    def saw(self, kind: type) -> list[SwimEvent]:
        """All events of one kind, in order."""
        return [event for _, event in self.events if isinstance(event, kind)]


class Network:
    """``delay``: least and greatest seconds on the way.  ``loss``: probability that a packet vanishes.

    ``refuse``: whether a sender hears at once that nobody listens at an address (like TCP), or nothing at all.
    ``names``: further names under which an address can be reached (host names).  ``signed``: claims are; then what
    everyone tells is checked to hold for everyone.
    """

    signed = False

    def __init__(
        self,
        seed: int = 0,
        config: SwimConfig | None = None,
        *,
        delay: tuple[float, float] = (0.001, 0.02),
        loss: float = 0.0,
        refuse: bool = True,
    ) -> None:
        self.now = 0.0
        self.random = random.Random(seed)
        self.config = config or SwimConfig.lan()
        self.delay = delay
        self.loss = loss
        self.refuse = refuse
        self.names: dict[str, str] = {}
        self.nodes: dict[str, Node] = {}
        self.everyone: dict[PeerId, Node] = {}
        self.packets = 0
        self.register = Register()
        self._islands: dict[str, int] = {}
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def start(self, peer: PeerInfo, seeds: Sequence[str] = (), known: Sequence[PeerInfo] = ()) -> Node:
        """A process starts; it takes over the address of a killed one."""
        notary = self.register.notary(peer.id) if self.signed else None
        node = Node(Swim(peer, self.config, random.Random(self.random.random()), notary=notary))
        self.nodes[peer.address] = node
        self.everyone[peer.id] = node
        self._perform(node, node.machine.start(self.now, seeds, known))
        return node

    def swarm(self, size: int, first: int = 1) -> list[Node]:
        """``size`` processes that join by the first of them."""
        seed = info(first).address
        return [self.start(info(first + i), [seed]) for i in range(size)]

    def kill(self, node: Node) -> None:
        """SIGKILL: nothing is said."""
        if self.nodes.get(node.me.address) is node:
            del self.nodes[node.me.address]
        node.timers.clear()

    def leave(self, node: Node) -> None:
        """A graceful end."""
        self._perform(node, node.machine.leave(self.now))
        self.kill(node)

    def pause(self, node: Node) -> None:
        """SIGSTOP: packets and timers wait."""
        node.paused = True

    def resume(self, node: Node) -> None:
        """SIGCONT: everything that waited comes at once, in random order."""
        node.paused = False
        backlog, node.backlog = node.backlog, []
        self.random.shuffle(backlog)
        for action in backlog:
            action()

    def partition(self, *groups: Iterable[Node]) -> None:
        """Packets do not cross from one group to another; ``partition()`` heals."""
        self._islands = {node.me.address: i for i, group in enumerate(groups) for node in group}

    def slip_in(self, node: Node, packet: Packet) -> None:
        """``packet`` reaches ``node``, whoever made it."""
        self._deliver(node.me.address, packet)

    def accuse(self, node: Node, peer: PeerInfo, reason: str) -> None:
        self._perform(node, node.machine.accuse(self.now, peer.id, reason))

    def run(self, seconds: float) -> None:
        """Let ``seconds`` of virtual time pass."""
        end = self.now + seconds
        while self._heap and self._heap[0][0] <= end:
            self._step()
        self.now = end

    def run_until(self, done: Callable[[], bool], within: float) -> None:
        """Until ``done()``, looked at every 10 virtual milliseconds; fails after ``within`` virtual seconds."""
        end = self.now + within
        while not done():
            assert self.now < end, f"not reached within {within} virtual seconds"
            self.run(0.01)

    def agreed(self, nodes: Iterable[Node] | None = None) -> bool:
        """Whether all ``nodes`` (default: all running) see exactly each other, alive."""
        group = list(self.nodes.values() if nodes is None else nodes)
        expected = sorted(node.me for node in group)
        return all(
            [view.peer for view in node.machine.members] == expected
            and all(view.status is Status.ALIVE for view in node.machine.members)
            for node in group
        )

    def _step(self) -> None:
        self.now, _, action = heapq.heappop(self._heap)
        action()

    def _at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (when, next(self._order), action))

    def _perform(self, node: Node, effects: list[Effect]) -> None:
        machine = node.machine
        assert machine.incarnation >= node.highest, "an incarnation went back"
        node.highest = machine.incarnation
        for effect in effects:
            match effect:
                case Send(to, packet):
                    self._check(node, packet)
                    self._send(node, to, packet)
                case SetTimer(key, at):
                    node.timers[key] = at
                    self._at(max(at, self.now), lambda k=key, a=at: self._fire(node, k, a))
                case CancelTimer(key):
                    node.timers.pop(key, None)
                case Emit(event):
                    node.events.append((self.now, event))

    def _check(self, node: Node, packet: Packet) -> None:
        assert packet.sender == node.me
        assert len(packet.rumours) <= self.config.max_rumours
        told = packet.body.members if isinstance(packet.body, Sync) else ()
        assert len(told) <= self.config.max_members
        for rumour in (*packet.rumours, *told):
            self._check_owned(rumour)

    def _check_owned(self, rumour: Rumour) -> None:
        owner = self.everyone.get(rumour.peer.id)
        if owner is not None:
            assert rumour.incarnation <= owner.machine.incarnation, "somebody else raised an incarnation"
        assert not self.signed or self.register.holds(rumour), "told what nobody else can check"

    def _send(self, node: Node, to: str, packet: Packet) -> None:
        self.packets += 1
        address = self.names.get(to, to)
        arrival = self.now + self.random.uniform(*self.delay)
        if self._islands.get(node.me.address) != self._islands.get(address) or self.random.random() < self.loss:
            return
        if address in self.nodes:
            self._at(arrival, lambda: self._deliver(address, packet))
        elif self.refuse:
            self._at(arrival, lambda: self._run(node, lambda: node.machine.send_failed(self.now, to, packet)))

    def _deliver(self, address: str, packet: Packet) -> None:
        node = self.nodes.get(address)
        if node is not None:
            self._run(node, lambda: node.machine.receive(self.now, packet))

    def _fire(self, node: Node, key: Hashable, at: float) -> None:
        def timer() -> list[Effect]:
            if node.timers.get(key) != at:
                return []
            del node.timers[key]
            return node.machine.timer(self.now, key)

        self._run(node, timer)

    def _run(self, node: Node, call: Callable[[], list[Effect]]) -> None:
        if self.nodes.get(node.me.address) is not node:
            return
        if node.paused:
            node.backlog.append(lambda: self._run(node, call))
            return
        self._perform(node, call())
