"""One machine on the bench: feed it, look at what it wants done."""

from __future__ import annotations

import random
from collections.abc import Hashable
from dataclasses import replace
from typing import TypeVar

from keyed_claims import Register
from swim_network import info

from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.membership import Body, Effect, Gossip, Joined, Packet, Rumour, Status, Swim, SwimConfig, SwimEvent
from lepton_p2p.membership.notary import ACCUSATIONS
from lepton_p2p.sansio import Emit, Send, SetTimer

B = TypeVar("B")
ME = info(0)


def alive(number: int, incarnation: int = 0) -> Rumour:
    return fact(number, Status.ALIVE, incarnation)


def fact(number: int, status: Status, incarnation: int = 0, origin: int | None = None) -> Rumour:
    """``number`` is ``status``, says ``origin`` (default: itself)."""
    return Rumour(info(number), status, incarnation, info(number if origin is None else origin).id)


def signed(register: Register, rumour: Rumour, word: Rumour | None = None) -> Rumour:
    """``rumour`` as honest members tell it: with the word of its subject (a register's member), and of its accuser.

    word: another thing that the subject says, in the place of what belongs to ``rumour``.
    """
    subject = register.notary(rumour.peer.id)
    said = Status.LEFT if rumour.status is Status.LEFT else Status.ALIVE
    own = subject.sign(word or replace(rumour, status=said, origin=rumour.peer.id))
    if rumour.status not in ACCUSATIONS:
        return replace(rumour, word=own.word)
    return register.notary(PeerId(rumour.origin)).sign(replace(rumour, word=own.word))


def sent(effects: list[Effect], kind: type[B] | None = None) -> list[tuple[str, Packet]]:
    """The packets in ``effects`` (with a body of ``kind``) and where they go."""
    packets = [(e.to, e.message) for e in effects if isinstance(e, Send)]
    return [(to, packet) for to, packet in packets if kind is None or isinstance(packet.body, kind)]


def events(effects: list[Effect]) -> list[SwimEvent]:
    return [e.event for e in effects if isinstance(e, Emit)]


def timers(effects: list[Effect]) -> dict[Hashable, float]:
    return {e.key: e.at for e in effects if isinstance(e, SetTimer)}


class Bench:
    """A started machine that knows the peers 1 to ``others``; ``armed`` is when its timers are due.

    register: where claims are signed, who may sign them.
    """

    def __init__(
        self, others: int = 0, config: SwimConfig | None = None, seed: int = 0, register: Register | None = None
    ) -> None:
        notary = register.notary(ME.id) if register is not None else None
        self.machine = Swim(ME, config or SwimConfig.lan(), random.Random(seed), notary=notary)
        self.armed: dict[Hashable, float] = {}
        self.now = 0.0
        self._note(self.machine.start(0.0))
        for number in range(1, others + 1):
            told = (signed(register, alive(number)),) if register is not None else ()
            assert events(self.hear(number, None, *told)) == [Joined(info(number))]

    def hear(self, sender: int | PeerInfo, body: Body | None = None, *rumours: Rumour) -> list[Effect]:
        """A packet from ``sender`` arrives now."""
        peer = info(sender) if isinstance(sender, int) else sender
        return self._note(self.machine.receive(self.now, Packet(peer, body or Gossip(), rumours)))

    def fire(self, key: Hashable) -> list[Effect]:
        """The timer ``key`` goes off when it is due."""
        self.now = max(self.now, self.armed.pop(key))
        return self._note(self.machine.timer(self.now, key))

    def gossip_out(self) -> None:
        """Until there is nothing left to tell."""
        while "gossip" in self.armed:
            self.fire("gossip")

    def refused(self, to: str, packet: Packet) -> list[Effect]:
        return self._note(self.machine.send_failed(self.now, to, packet))

    def accuse(self, number: int, reason: str = "link reset") -> list[Effect]:
        return self._note(self.machine.accuse(self.now, info(number).id, reason))

    def status(self, number: int) -> Status | None:
        return next((view.status for view in self.machine.view() if view.peer.id == info(number).id), None)

    def _note(self, effects: list[Effect]) -> list[Effect]:
        self.armed |= timers(effects)
        return effects
