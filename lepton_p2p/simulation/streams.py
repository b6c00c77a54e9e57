"""Links: ordered and reliable as long as they last, as TCP is; they break, stall and flip bits."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

from lepton_p2p.identity import PeerInfo
from lepton_p2p.simulation.network import Network

RETRANSMIT = 0.2
"""Seconds before something that did not get through is sent again; doubles up to ``RETRANSMIT_MOST``."""
RETRANSMIT_MOST = 3.0

Numbers = tuple[int, ...]


class Frame(NamedTuple):
    """A chunk on its way: where it belongs, its numbers, and the checksum that the sender made of them."""

    epoch: int
    tag: int
    round: int
    phase: int
    segment: int
    chunk: int
    payload: Numbers
    checksum: int
    extra: bytes

    @property
    def intact(self) -> bool:
        """Whether the numbers are those that were sent."""
        return checksum(self.payload) == self.checksum


def checksum(payload: Numbers) -> int:
    """Of one chunk; hashes of integers are the same in every process."""
    return hash(payload)


class End(Protocol):
    """A process at one end of a stream."""

    @property
    def info(self) -> PeerInfo: ...

    @property
    def running(self) -> bool:
        """Alive and not stopped: it says that it is there."""

    @property
    def alive(self) -> bool: ...

    def do(self, call: Callable[[], None]) -> None:
        """Run ``call`` in the process, when it runs next."""


class Stream:
    """From ``source`` to ``target``.  on_frame, on_lost: what the target and either end do with news of it."""

    def __init__(self, network: Network, source: End, target: End) -> None:
        self.source, self.target = source, target
        self.on_frame: Callable[[Frame], None] = lambda frame: None
        self.on_lost: dict[End, Callable[[str], None]] = {}
        self.closed = False
        self.heard = network.scheduler.now
        """When the target last had a sign of life, heartbeats included; see :meth:`look`."""
        self._network = network
        self._path = (source.info.address, target.info.address)
        self._queue: deque[tuple[float, Frame]] = deque()
        self._pumping = False
        self._wait = RETRANSMIT
        self._deaf = False

    def send(self, frame: Frame) -> None:
        """Nothing happens if it is closed."""
        if self.closed:
            return
        network = self._network
        due = network.scheduler.now + network.travel()
        if network.weather.loss and network.rng.random() < network.weather.loss:
            network.counts["retransmission"] += 1
            due += RETRANSMIT
        if network.weather.flips and network.rng.random() < network.weather.flips and frame.payload:
            network.counts["flip"] += 1
            frame = frame._replace(payload=(frame.payload[0] ^ 1 << network.rng.randrange(40), *frame.payload[1:]))
        self._queue.append((due, frame))
        if not self._pumping:
            self._pumping = True
            network.scheduler.after(due - network.scheduler.now, self._pump)

    def look(self) -> float:
        """When the target last had a sign of life from the source, which sends one whenever it runs."""
        if self.source.running and self._network.reaches(*self._path):
            self.heard = self._network.scheduler.now
        return self.heard

    def close(self, by: End, reason: str) -> None:
        """``by`` has closed it, or is no more; the other end learns of it when the news gets through.

        What is on its way when the source goes may still arrive, or may not.
        """
        if not self.closed:
            self.closed = True
            self._deaf = by is self.target
            if self._deaf or self._network.rng.random() < 0.5:
                self._queue.clear()
            other = self.target if by is self.source else self.source
            self._network.scheduler.after(self._network.travel(), self._tell, by, other, reason, RETRANSMIT)

    def _tell(self, by: End, other: End, reason: str, wait: float) -> None:
        if not other.alive:
            return
        if self._queue or not self._network.reaches(by.info.address, other.info.address):
            self._network.scheduler.after(wait, self._tell, by, other, reason, min(2 * wait, RETRANSMIT_MOST))
            return
        other.do(lambda: self.on_lost.get(other, _nothing)(reason))

    def _pump(self) -> None:
        self._pumping = False
        if not self._queue:
            return
        scheduler = self._network.scheduler
        if not self._network.reaches(*self._path):
            self._again(self._wait)
            self._wait = min(2 * self._wait, RETRANSMIT_MOST)
            return
        self._wait = RETRANSMIT
        _, frame = self._queue.popleft()
        if self._queue:
            self._again(max(0.0, self._queue[0][0] - scheduler.now))
        self.heard = scheduler.now
        self.target.do(lambda: None if self._deaf else self.on_frame(frame))

    def _again(self, seconds: float) -> None:
        self._pumping = True
        self._network.scheduler.after(seconds, self._pump)


def _nothing(reason: str) -> None:
    """Whoever was to hear it does not care any more."""
