"""Messages to single partners, outside of rounds: the sending half (``push_inbox.py`` is the receiving one).

A push is a short header and a payload (a whole model, for gossip).  It travels on a link of its own direction as PUSH
frames: ``round`` is its number on this link (ascending), ``epoch`` the payload's length, ``tag`` the offset of the
frame's part; the header is the ``extra`` of the first one.  The answer is one PUSHED frame with that number, whose
``phase`` is a :class:`Fate`.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import IntEnum

from lepton_p2p.errors import Closed, LeptonError, SwarmUnreachable
from lepton_p2p.identity import PeerId, short
from lepton_p2p.tasks import OwnedTasks
from lepton_p2p.transport.links.frames import MAX_PAYLOAD, Header, Kind, checksum, encode
from lepton_p2p.transport.links.link import Link, Unexpected
from lepton_p2p.transport.links.protocol import Verdict
from lepton_p2p.transport.links.purpose import Purpose

MAX_PUSH_HEADER = Purpose.PUSH.max_extra
"""Bound on the header of a push, bytes."""
PATIENCE = 60.0
"""Seconds without any progress after which either side closes the link.

Nobody waits for a push, and a dead partner is noticed by the failure detector long before; this only ends links that
are stuck while their peer lives, so it is generous: 1 MiB in this time is 17 kB/s.
"""
WAITING = 4
"""Pushes that wait for the one before them to the same partner; the next is refused.  One transfer and some messages
without payload; their memory is the caller's."""

Connect = Callable[[PeerId], Awaitable[Link]]
"""Opens a push link; raises ``LeptonError`` if that fails."""


class NotSent(SwarmUnreachable):
    """A push that the partner certainly did not get and never will: its handler has not seen any of it."""


class Fate(IntEnum):
    """What became of a push: the phase of its PUSHED frame."""

    REFUSED = 0
    """The handler returned False."""
    TAKEN = 1
    """The handler returned True."""
    NOBODY = 2
    """There is no handler (yet)."""
    FAILED = 3
    """The handler raised: nobody can say."""


@dataclass(slots=True, eq=False)
class _Push:
    header: bytes
    payload: memoryview
    future: Future[bool]
    begun: bool = False


@dataclass(slots=True, eq=False)
class _Lane:
    """What is on its way to one partner; ``queue[0]`` is being sent while ``task`` runs."""

    partner: PeerId
    queue: deque[_Push] = field(default_factory=deque)
    link: Link | None = None
    number: int = 0
    task: asyncio.Task[None] | None = None


class _Answer:
    """The handler of a link on which the answer to push ``number`` is awaited; ``fate`` None: the link is lost."""

    def __init__(self, link: Link, number: int) -> None:
        self.fate: asyncio.Future[Fate | None] = asyncio.get_running_loop().create_future()
        self._link, self._number = link, number

    def admit(self, header: Header, extra: bytes) -> Verdict:
        answers = header.kind is Kind.PUSHED and header.round == self._number and header.phase <= max(Fate)
        if not answers or header.payload:
            self._link.abort(f"the remote sent {header.kind.name} {header.round}, not the answer to a push")
            return Verdict.DRAIN
        self._link.handler = Unexpected(self._link)
        if not self.fate.done():
            self.fate.set_result(Fate(header.phase))
        return Verdict.DRAIN

    def received(self, header: Header) -> None:  # pragma: no cover - admit never gives memory
        raise AssertionError("unreachable")

    corrupt = received

    def lost(self, reason: str) -> None:
        if not self.fate.done():
            self.fate.set_result(None)


class Pusher:
    """Sends pushes, one at a time to each partner, over a link that is opened for the first and kept for the next.

    Made on the loop; :meth:`push` may be called from any thread, the rest on the loop.  Futures are completed on the
    loop, so their callbacks must be quick.  ``tasks`` owns the background work.  ``chunk``: payload bytes per frame, at
    most ``MAX_PAYLOAD``.  ``waiting``, ``patience``: see the constants.
    """

    def __init__(
        self,
        connect: Connect,
        tasks: OwnedTasks,
        *,
        waiting: int = WAITING,
        patience: float = PATIENCE,
        chunk: int = MAX_PAYLOAD,
    ) -> None:
        self._connect, self._tasks = connect, tasks
        self._waiting, self._patience, self._chunk = waiting, patience, chunk
        self._loop = asyncio.get_running_loop()
        self._lanes: dict[PeerId, _Lane] = {}
        self._lock = threading.Lock()
        self._load: dict[PeerId, int] = {}
        """Pushes without an outcome by partner; guarded by the lock, as is ``_closed``."""
        self._closed = False

    def push(self, partner: PeerId, header: bytes, payload: memoryview) -> Future[bool]:
        """Send; never blocks.  ``payload`` (C-contiguous) must not change until the future is done.

        True / False is what the partner's handler returned.  :class:`NotSent`: it got nothing (too many pushes wait,
        no link to be had, no handler there).  Any other ``LeptonError``: unknown whether it got it.  The future
        cannot be cancelled.  Raises ``ValueError`` for a header above ``MAX_PUSH_HEADER`` bytes.
        """
        if len(header) > MAX_PUSH_HEADER:
            raise ValueError(f"the header of a push is at most {MAX_PUSH_HEADER} bytes, this one has {len(header)}")
        push = _Push(header, payload.cast("B") if payload.nbytes else memoryview(b""), Future())
        push.future.set_running_or_notify_cancel()
        with self._lock:
            refused: LeptonError | None = None
            if self._closed:
                refused = Closed("the peer is closed")
            elif self._load.get(partner, 0) > self._waiting:
                refused = NotSent(f"{self._waiting} pushes to peer {short(partner)} wait already")
            else:
                self._load[partner] = self._load.get(partner, 0) + 1
                self._loop.call_soon_threadsafe(self._enqueue, partner, push)
        if refused is not None:
            push.future.set_exception(refused)
        return push.future

    def drop(self, partner: PeerId, reason: str) -> None:
        """Give up what is on its way to ``partner`` and close its link."""
        lane = self._lanes.pop(partner, None)
        if lane is not None:
            self._end(lane, reason)

    def close(self) -> None:
        """Give up everything; futures that are not done get :class:`Closed`, as do those of later pushes."""
        with self._lock:
            self._closed = True
        for partner in tuple(self._lanes):
            self.drop(partner, "this peer is closing")

    def _enqueue(self, partner: PeerId, push: _Push) -> None:
        if self._closed:
            self._settle(partner, push, Closed("the peer is closed"))
            return
        lane = self._lanes.setdefault(partner, _Lane(partner))
        lane.queue.append(push)
        if lane.task is None:
            lane.task = self._tasks.spawn(self._run(lane), f"pushes to {short(partner)}")
            lane.task.add_done_callback(lambda task: self._stopped(lane, task))

    def _stopped(self, lane: _Lane, task: asyncio.Task[None]) -> None:
        """No future stays undone, whatever ended the task."""
        if task.cancelled() or task.exception() is not None:
            if self._lanes.get(lane.partner) is lane:
                del self._lanes[lane.partner]
            self._end(lane, "the peer is closing" if task.cancelled() else "it failed on this side; see the log")

    def _end(self, lane: _Lane, reason: str) -> None:
        if lane.link is not None:
            lane.link.abort(reason)
        if lane.task is not None:
            lane.task.cancel()
        while lane.queue:
            push = lane.queue.popleft()
            error: LeptonError = SwarmUnreachable(f"a push to peer {short(lane.partner)} was cut off: {reason}")
            if not push.begun:
                error = NotSent(f"a push to peer {short(lane.partner)} was not begun: {reason}")
            self._settle(lane.partner, push, Closed("the peer was closed during a push") if self._closed else error)

    def _settle(self, partner: PeerId, push: _Push, outcome: bool | LeptonError) -> None:
        push.payload = memoryview(b"")
        with self._lock:
            self._load[partner] -= 1
            if not self._load[partner]:
                del self._load[partner]
        if isinstance(outcome, LeptonError):
            push.future.set_exception(outcome)
        else:
            push.future.set_result(outcome)

    async def _run(self, lane: _Lane) -> None:
        while lane.queue:
            push = lane.queue[0]
            outcome: bool | LeptonError
            try:
                outcome = await self._deliver(lane, push)
            except LeptonError as error:
                # The frames of a time-out would keep the payload alive for as long as the future is kept.
                outcome, error.__context__ = error, None
            lane.queue.popleft()
            self._settle(lane.partner, push, outcome)
        lane.task = None
        self._forget(lane)

    def _forget(self, lane: _Lane) -> None:
        """Keep nothing about a partner to whom there is no link and nothing to send."""
        if lane.link is None and lane.task is None and self._lanes.get(lane.partner) is lane:
            del self._lanes[lane.partner]

    async def _open(self, lane: _Lane) -> Link:
        if lane.link is not None:
            return lane.link
        try:
            link = await self._connect(lane.partner)
        except LeptonError as error:
            raise NotSent(f"no link to push over: {error}") from None
        lane.link, lane.number = link, 0
        link.watch(lambda reason: self._link_lost(lane, link))
        return link

    def _link_lost(self, lane: _Lane, link: Link) -> None:
        if lane.link is link:
            lane.link = None
            self._forget(lane)

    async def _deliver(self, lane: _Lane, push: _Push) -> bool:
        link = await self._open(lane)
        lane.number += 1
        answer = _Answer(link, lane.number)
        unwatch = link.watch(answer.lost)
        link.handler = answer
        push.begun = True
        try:
            await self._send(link, lane.number, push, answer)
            async with asyncio.timeout(self._patience):
                fate = await answer.fate
        except TimeoutError:
            reason = f"the remote neither took nor answered a push for {self._patience:g} s"
            lane.link = None
            link.abort(reason)
            raise SwarmUnreachable(f"gave up a push to peer {short(lane.partner)}: {reason}") from None
        finally:
            unwatch()
        return self._judge(lane.partner, link, fate)

    async def _send(self, link: Link, number: int, push: _Push, answer: _Answer) -> None:
        """All parts of the payload, or as many as the partner wants to have; its memory is free afterwards."""
        offset, extra = 0, push.header
        while True:
            part = push.payload[offset : offset + self._chunk]
            head = encode(
                Kind.PUSH,
                epoch=push.payload.nbytes,
                tag=offset,
                round=number,
                extra=extra,
                payload=part.nbytes,
                payload_checksum=checksum(part),
            )
            link.send(head, part)
            async with asyncio.timeout(self._patience):
                await link.drained()
            offset, extra = offset + part.nbytes, b""
            if offset == push.payload.nbytes or answer.fate.done():
                return
            # A fast link takes chunk after chunk at once; others are to have their turn in between.
            await asyncio.sleep(0)

    @staticmethod
    def _judge(partner: PeerId, link: Link, fate: Fate | None) -> bool:
        match fate:
            case Fate.NOBODY:
                raise NotSent(f"peer {short(partner)} takes no pushes (yet)")
            case Fate.FAILED:
                raise SwarmUnreachable(f"peer {short(partner)} failed to handle a push; see its log")
            case None:
                raise SwarmUnreachable(f"the link to peer {short(partner)} was lost during a push: {link.closed}")
        return fate is Fate.TAKEN
