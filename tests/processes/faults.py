"""Mishaps that a worker does to itself at an exact point of a round or of the agreement on an epoch."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_p2p.collectives.courier import Courier
from lepton_p2p.collectives.operations import Array, Op
from lepton_p2p.collectives.sources import PiecesSource
from lepton_p2p.rounds.butterfly import Leg, Parcel
from lepton_p2p.rounds.messages import RoundMessage
from lepton_p2p.runtime.node import Node


@dataclass(frozen=True)
class Fault:
    """Send ``signal`` to the own process when the point ``at`` is reached; once.

    at: ``run`` (a round is announced here, nothing sent), ``hop`` (the first chunk of the ``hop``-th hop has come),
    ``done`` (the result is complete, nobody was told), ``decided`` (the caller was told), ``message`` (``delivered``
    messages of the kind ``message`` have been delivered; no further one is).  ``infect``: not a signal, but one
    infinite number in the next partial sum.
    ``withhold``: not a signal, but in the next butterfly the own result does not go to ``peer``.
    token: a file that is created when the fault strikes; if it exists already, it does not: of several peers that are
    armed with the same token the first one is hit.
    """

    at: str
    signal: int = 0
    hop: int = 0
    message: str = ""
    delivered: int = 0
    token: str = ""
    peer: str = ""


class Faults:
    """Hooks into one node; at most one fault is armed at a time."""

    def __init__(self, node: Node) -> None:
        self._armed: Fault | None = None
        self._delivered = 0
        self._turn = asyncio.Lock()
        rounds = node.rounds
        rounds.on_hop = lambda round, hop: self._reached("hop", hop)
        self._around(rounds, "_start", before="run")
        self._around(rounds, "_done", before="done", after="decided")
        self._deliver = node.channels.deliver_round
        node.channels.deliver_round = self._hooked_deliver  # type: ignore[method-assign]
        self._infect_partial_sums()
        self._withhold_results()

    def arm(self, fault: Fault) -> None:
        self._armed, self._delivered, self._turn = fault, 0, asyncio.Lock()

    def _reached(self, at: str, hop: int = 0) -> None:
        fault = self._armed
        if fault is not None and fault.at == at and fault.hop == hop:
            self._strike(fault)

    def _strike(self, fault: Fault) -> None:
        self._armed = None
        if fault.token:
            try:
                os.close(os.open(fault.token, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return
        os.kill(os.getpid(), fault.signal)

    def _around(self, owner: Any, name: str, *, before: str, after: str = "") -> None:
        original: Callable[..., None] = getattr(owner, name)

        def hooked(*args: Any) -> None:
            self._reached(before)
            original(*args)
            self._reached(after)

        setattr(owner, name, hooked)

    async def _hooked_deliver(self, to: str, message: RoundMessage, timeout: float) -> None:
        fault = self._armed
        if fault is None or fault.at != "message" or fault.message != type(message).__name__:
            await self._deliver(to, message, timeout)
            return
        async with self._turn:
            # One at a time, so that what has been delivered when the fault strikes is what the test says.
            if self._armed is fault:
                delivered = self._delivered < fault.delivered
                if delivered:
                    await self._deliver(to, message, timeout)
                    self._delivered += 1
                if self._delivered == fault.delivered:
                    self._strike(fault)
                if delivered:
                    return
        await self._deliver(to, message, timeout)

    def _infect_partial_sums(self) -> None:
        original = PiecesSource.fold

        def infected(source: PiecesSource, op: Op, start: int, stop: int, arrived: Array, out: Array) -> None:
            original(source, op, start, stop, arrived, out)
            if self._armed is not None and self._armed.at == "infect":
                # The first sum of a round is one that goes on to the next member, who looks at it.
                self._armed = None
                out[0] = np.inf

        PiecesSource.fold = infected  # type: ignore[method-assign]

    def _withhold_results(self) -> None:
        original = Courier.put

        def put(courier: Courier, parcels: Iterable[Parcel]) -> None:
            fault, kept = self._armed, list(parcels)
            if fault is not None and fault.at == "withhold" and courier._link.remote == fault.peer:
                kept = [parcel for parcel in kept if parcel.leg is not Leg.RESULT]
            original(courier, kept)

        Courier.put = put  # type: ignore[method-assign]
