"""Collects the effects of one input, and puts the piggyback on every packet."""

from __future__ import annotations

from collections.abc import Hashable

from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.membership.broadcasts import Broadcasts
from lepton_p2p.membership.config import SwimConfig
from lepton_p2p.membership.events import Effect, SwimEvent
from lepton_p2p.membership.messages import Body, Packet, Rumour, Status, Sync
from lepton_p2p.membership.table import Table
from lepton_p2p.sansio import CancelTimer, Emit, Send, SetTimer


class Outbox:
    """Where the parts of the machine leave what they want done."""

    def __init__(self, me: PeerInfo, config: SwimConfig, table: Table, broadcasts: Broadcasts) -> None:
        self._me = me
        self._config = config
        self._table = table
        self._broadcasts = broadcasts
        self._effects: list[Effect] = []
        self._armed: dict[Hashable, float] = {}

    def send(self, to: PeerInfo, body: Body, *urgent: Rumour) -> None:
        """Send ``body`` to ``to`` with the ``urgent`` rumours first.

        If ``to`` is suspected or believed dead it is told so next, that it may refute at once (Lifeguard's
        buddy system); other rumours fill the packet up to its bound.  Nothing is sent to our own address, whoever
        is said to be there.
        """
        if to.address == self._me.address:
            return
        self._effects.append(Send(to.address, Packet(self._me, body, self._piggyback(to.id, body, urgent))))

    def send_blind(self, address: str, body: Body) -> None:
        """Send ``body`` to whoever is at ``address``."""
        self._effects.append(Send(address, Packet(self._me, body, self._piggyback(None, body, ()))))

    def set_timer(self, key: Hashable, at: float) -> None:
        self._armed[key] = at
        self._effects.append(SetTimer(key, at))

    def cancel_timer(self, key: Hashable) -> None:
        if self._armed.pop(key, None) is not None:
            self._effects.append(CancelTimer(key))

    def cancel_all(self) -> None:
        for key in list(self._armed):
            self.cancel_timer(key)

    def is_armed(self, key: Hashable) -> bool:
        return key in self._armed

    def fired(self, key: Hashable) -> float | None:
        """The timer ``key`` went off: when it was due, or None if it was not set (a driver's late call)."""
        return self._armed.pop(key, None)

    def emit(self, event: SwimEvent) -> None:
        self._effects.append(Emit(event))

    @property
    def pending(self) -> tuple[Effect, ...]:
        return tuple(self._effects)

    def drain(self) -> list[Effect]:
        """All effects since the last call, in order."""
        effects, self._effects = self._effects, []
        return effects

    def _piggyback(self, to: PeerId | None, body: Body, urgent: tuple[Rumour, ...]) -> tuple[Rumour, ...]:
        view = self._table.get(to) if to is not None else None
        if not urgent and not self._broadcasts and (view is None or view.status is Status.ALIVE):
            return ()  # as nearly always
        rumours = {rumour.peer.id: rumour for rumour in urgent}
        if view is not None and view.status in (Status.SUSPECT, Status.DEAD):
            rumours[view.peer.id] = view.fact
        if not isinstance(body, Sync):  # which says it all anyway
            limit = self._config.retransmissions(self._table.live_count + 1)
            room = self._config.max_rumours - len(rumours)
            rumours |= {r.peer.id: r for r in self._broadcasts.take(room, limit, rumours)}
        return tuple(rumours.values())[: self._config.max_rumours]
