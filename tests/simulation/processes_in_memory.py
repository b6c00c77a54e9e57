"""Ends of streams, with a switch for each mishap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from lepton_p2p.identity import PeerId, PeerInfo


def info(number: int) -> PeerInfo:
    return PeerInfo(PeerId(f"{number:032x}"), f"host-{number}:1")


@dataclass(eq=False)
class Process:
    """One end of a stream: runs what it is given at once, or when it goes on."""

    info: PeerInfo
    alive: bool = True
    stopped: bool = False
    backlog: list[Callable[[], None]] = field(default_factory=list)

    @property
    def running(self) -> bool:
        return self.alive and not self.stopped

    def do(self, call: Callable[[], None]) -> None:
        if self.stopped:
            self.backlog.append(call)
        elif self.alive:
            call()

    def go_on(self) -> None:
        self.stopped = False
        for call in self.backlog:
            call()
