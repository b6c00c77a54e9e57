"""One member probed per interval: directly, then through others, then suspected."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.membership.awareness import Awareness
from lepton_p2p.membership.beliefs import Beliefs
from lepton_p2p.membership.config import SwimConfig
from lepton_p2p.membership.messages import Ping, PingRequest, Status
from lepton_p2p.membership.outbox import Outbox
from lepton_p2p.membership.randomness import Randomness
from lepton_p2p.membership.table import MemberView, Table


@dataclass(slots=True)
class _Probe:
    sequence: int
    target: PeerInfo
    acked: bool = False
    indirect: bool = False
    refused: bool = False
    waiting_for: dict[PeerId, None] = field(default_factory=dict)
    asked: dict[PeerId, None] = field(default_factory=dict)


class Prober:
    """Randomised round robin (SWIM, section 4.3): everybody once, in random order, then in another order.

    So a dead member is probed within 2n - 1 intervals at the latest, which picking at random cannot promise.
    """

    def __init__(
        self,
        config: SwimConfig,
        rng: Randomness,
        sequences: Iterator[int],
        table: Table,
        beliefs: Beliefs,
        awareness: Awareness,
        outbox: Outbox,
    ) -> None:
        self._config = config
        self._rng = rng
        self._sequences = sequences
        self._table = table
        self._beliefs = beliefs
        self._awareness = awareness
        self._outbox = outbox
        self._unprobed: list[PeerId] = []
        self._probe: _Probe | None = None
        self.due = 0.0
        """When the next interval begins (seconds): how a process notices that it stood still."""

    def start(self, now: float) -> None:
        """Begin somewhere inside the first interval, so that peers started together do not probe in step."""
        self._next_at(now + self._rng.random() * self._config.probe_interval)

    def interval(self, now: float) -> None:
        """An interval ends: judge its probe, begin the next."""
        self._judge(now)
        self._next_at(now + self._awareness.scale(self._config.probe_interval))
        view = self._choose()
        if view is None:
            return
        self._probe = _Probe(next(self._sequences), view.peer)
        self._outbox.send(view.peer, Ping(self._probe.sequence, view.peer.id))
        self._outbox.set_timer("indirect", now + self._awareness.scale(self._config.probe_timeout))

    def ask_others(self) -> None:
        """No direct answer in time: perhaps only the path between us is bad."""
        probe = self._probe
        if probe is None or probe.acked or probe.indirect:
            return
        probe.indirect = True
        self._outbox.cancel_timer("indirect")
        for peer in self._relays(probe.target.id):
            probe.asked[peer.id] = None
            probe.waiting_for[peer.id] = None
            self._outbox.send(peer, PingRequest(probe.sequence, probe.target))

    def acked(self, sender: PeerId, sequence: int) -> None:
        """An ack came, from the target or a relay."""
        probe = self._probe
        if probe is None or probe.sequence != sequence or probe.acked:
            return
        if sender == probe.target.id or sender in probe.asked:
            probe.acked = True
            self._awareness.add(-1)
            self._outbox.cancel_timer("indirect")

    def nacked(self, sender: PeerId, sequence: int) -> None:
        """A relay got no answer either; that it said so shows that our own links work."""
        if self._probe is not None and self._probe.sequence == sequence:
            self._probe.waiting_for.pop(sender, None)

    def undelivered(self, to: str, ping: Ping) -> None:
        """The direct ping was refused: no use in waiting for its time-out."""
        probe = self._probe
        if probe is not None and probe.sequence == ping.sequence and probe.target.address == to:
            probe.refused = True
            self.ask_others()

    def relay_undelivered(self, to: str, request: PingRequest) -> None:
        """The request was refused: its relay's silence says nothing of our own health."""
        probe = self._probe
        if probe is not None and probe.sequence == request.sequence:
            for view in self._table.live_at(to):
                probe.waiting_for.pop(view.peer.id, None)

    def void(self, now: float) -> None:
        """Pass no verdict on the probe under way and begin again (this process stood still)."""
        self._probe = None
        self._outbox.cancel_timer("indirect")
        self._next_at(now)

    def _relays(self, target: PeerId) -> list[PeerInfo]:
        """Members that nobody suspects, in random order: of a few if that is enough, else of all."""
        live, wanted = self._table.live_ids(), self._config.indirect_probes
        for few in (4 * wanted + 1, len(live)):
            views = map(self._table.get, self._rng.sample(live, min(few, len(live))))
            fit = [v.peer for v in views if v and v.status is Status.ALIVE and v.peer.id != target]
            if len(fit) >= wanted or few >= len(live):
                break
        return fit[:wanted]

    def _next_at(self, at: float) -> None:
        self.due = at
        self._outbox.set_timer("probe", at)

    def _judge(self, now: float) -> None:
        probe, self._probe = self._probe, None
        if probe is None or probe.acked:
            return
        view = self._table.get(probe.target.id)
        if view is None or not view.live or view.peer != probe.target:
            return  # somebody else found out meanwhile
        if probe.asked:
            self._awareness.add(len(probe.waiting_for))
        elif not probe.refused:
            self._awareness.add(1)
        self._beliefs.accuse(now, probe.target.id, "answers no probe, direct or through others")

    def _choose(self) -> MemberView | None:
        """The next live member in turn."""
        for _ in range(2):
            while self._unprobed:
                view = self._table.get(self._draw())
                if view is not None and view.live:
                    return view
            self._unprobed = self._table.live_ids().copy()
        return None

    def _draw(self) -> PeerId:
        """Take any of those whose turn is still to come: shuffling all of a large swarm at once would take longer."""
        place = self._rng.randrange(len(self._unprobed))
        self._unprobed[place], self._unprobed[-1] = self._unprobed[-1], self._unprobed[place]
        return self._unprobed.pop()
