"""Pinging on behalf of others: the relay's half of an indirect probe."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.membership.config import SwimConfig
from lepton_p2p.membership.messages import Ack, Nack, Ping, PingRequest
from lepton_p2p.membership.outbox import Outbox

MAX_RELAYED = 1024
"""Pings under way for others; more requests are turned down at once, so that they cost no memory."""
NACK_AFTER = 0.8
"""Share of the probe time-out after which the asker hears a nack (Lifeguard, section IV-A)."""


@dataclass(slots=True)
class _Relayed:
    asker: PeerInfo
    request: PingRequest
    nacked: bool = False


class Relay:
    """Answers every request with an ack as soon as the target answers, and with one nack if it takes long."""

    def __init__(self, me: PeerInfo, config: SwimConfig, sequences: Iterator[int], outbox: Outbox) -> None:
        self._me = me
        self._config = config
        self._sequences = sequences
        self._outbox = outbox
        self._under_way: dict[int, _Relayed] = {}

    def request(self, now: float, asker: PeerInfo, request: PingRequest) -> None:
        """``asker`` cannot reach ``request.target``: try."""
        target = request.target
        if target.id == self._me.id:
            self._outbox.send(asker, Ack(request.sequence))
        elif target.address == self._me.address or len(self._under_way) >= MAX_RELAYED:
            self._outbox.send(asker, Nack(request.sequence))
        else:
            sequence = next(self._sequences)
            self._under_way[sequence] = _Relayed(asker, request)
            self._outbox.send(target, Ping(sequence, target.id))
            self._outbox.set_timer(("relay", sequence), now + NACK_AFTER * self._config.probe_timeout)

    def timer(self, now: float, sequence: int) -> None:
        """First: say that there is nothing yet.  Then: give up waiting for a late ack."""
        relayed = self._under_way.get(sequence)
        if relayed is None:
            return
        if relayed.nacked:
            del self._under_way[sequence]
        else:
            self._nack(relayed)
            self._outbox.set_timer(("relay", sequence), now + self._config.probe_interval)

    def acked(self, sender: PeerId, sequence: int) -> None:
        """``sender`` answered; pass it on if it is the one that was asked."""
        relayed = self._under_way.get(sequence)
        if relayed is not None and relayed.request.target.id == sender:
            del self._under_way[sequence]
            self._outbox.cancel_timer(("relay", sequence))
            self._outbox.send(relayed.asker, Ack(relayed.request.sequence))

    def undelivered(self, sequence: int) -> None:
        """The ping did not even get out: the asker need not wait for the nack."""
        relayed = self._under_way.get(sequence)
        if relayed is not None and not relayed.nacked:
            self._nack(relayed)

    def _nack(self, relayed: _Relayed) -> None:
        relayed.nacked = True
        self._outbox.send(relayed.asker, Nack(relayed.request.sequence))
