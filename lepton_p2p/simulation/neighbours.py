"""A process's two places on the ring: the stream to its right neighbour, and what comes from its left one.

What ``collectives.epoch_links.EpochLinks`` and ``transport.links.arrivals.Arrivals`` are on sockets.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection

from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.rounds.epoch import Epoch
from lepton_p2p.rounds.position import Position, Relation
from lepton_p2p.simulation.attempts import VirtualAttempt
from lepton_p2p.simulation.streams import End, Frame, Stream

Opened = Callable[[Stream | None], None]
Connect = Callable[[PeerInfo, Opened], None]
Lost = Callable[[int, PeerId, str], None]


class RightLink:
    """connect(peer, opened): opens a stream.  lost(tag, peer, reason): it broke, or could not be opened."""

    def __init__(self, end: End, connect: Connect, lost: Lost) -> None:
        self._end, self._connect, self._lost = end, connect, lost
        self._tag = 0
        self._right: PeerInfo | None = None
        self._stream: Stream | None = None
        self._opening = 0
        self._waiting: Callable[[Stream | None], None] | None = None

    def move(self, epoch: Epoch) -> None:
        """Belong to ``epoch`` from now on."""
        self._tag, self._waiting = epoch.tag, None
        right = None
        if len(epoch.members) > 1:
            neighbour = epoch.right_of(self._end.info.id)
            right = next(member.peer for member in epoch.members if member.id == neighbour)
        if right != self._right or self._stream is None or self._stream.closed:
            self.drop("the ring has changed")
            self._right = right
            if right is not None:
                self._opening += 1
                ticket = self._opening
                self._connect(right, lambda stream: self._opened(ticket, right, stream))

    def drop(self, reason: str) -> None:
        """Close it."""
        self._waiting = None
        self._opening += 1
        stream, self._stream, self._right = self._stream, None, None
        if stream is not None:
            stream.close(self._end, reason)

    def when_ready(self, then: Callable[[Stream | None], None]) -> None:
        """Call ``then`` with the stream (None in an epoch of one), now or when it is open."""
        self._waiting = None
        if self._right is None:
            then(None)
        elif self._stream is not None and not self._stream.closed:
            then(self._stream)
        else:
            self._waiting = then

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self._waiting = None

    def _opened(self, ticket: int, right: PeerInfo, stream: Stream | None) -> None:
        if ticket != self._opening:
            if stream is not None:
                stream.close(self._end, "not needed any more")
            return
        if stream is None:
            self._lost(self._tag, right.id, "the link to it could not be opened")
            return
        self._stream = stream
        stream.on_lost[self._end] = lambda reason: self._gone(stream, right.id, reason)
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting(stream)

    def _gone(self, stream: Stream, peer: PeerId, reason: str) -> None:
        if self._stream is stream:
            self._stream = None
            self._lost(self._tag, peer, f"the link to it is gone: {reason}")


class Inbox:
    """Frames go to the attempt that waits for them, wait until it is their turn, or are thrown away."""

    def __init__(self, end: End) -> None:
        self._end = end
        self._streams: dict[PeerId, Stream] = {}
        self._held: dict[PeerId, deque[Frame]] = {}
        self._lost: dict[PeerId, str] = {}
        self._position = Position()
        self._attempt: VirtualAttempt | None = None

    @property
    def held(self) -> int:
        """How many frames wait."""
        return sum(map(len, self._held.values()))

    def accept(self, stream: Stream) -> None:
        """A stream from another process; it replaces an older one from the same."""
        remote = stream.source.info.id
        old = self._streams.pop(remote, None)
        if old is not None:
            old.close(self._end, "replaced by a newer link from the same peer")
        self._streams[remote] = stream
        self._held[remote] = deque()
        self._lost.pop(remote, None)
        stream.on_frame = lambda frame: self._arrived(stream, remote, frame)
        stream.on_lost[self._end] = lambda reason: self._gone(stream, remote, reason)

    def stream_from(self, peer: PeerId) -> Stream | None:
        """The open stream from ``peer``."""
        return self._streams.get(peer)

    def keep_only(self, peers: Collection[PeerId]) -> None:
        """Close the streams of all others."""
        for remote in [remote for remote in self._streams if remote not in peers]:
            self._forget(remote).close(self._end, "its peer is not a member of this epoch")

    def advance(self, number: int, tag: int) -> None:
        """The epoch is now ``(number, tag)``; nothing is expected yet."""
        self._drop()
        if self._position.enter(number, tag):
            self._lost.clear()
        self._resume()

    def leave(self) -> None:
        """In no epoch any more."""
        self._drop()
        self._position.leave()
        self._lost.clear()
        self.keep_only(())

    def expect(self, attempt: VirtualAttempt) -> None:
        """Give ``attempt`` its frames from now on, those that wait at once."""
        self._drop()
        self._position.expect(attempt.round)
        self._attempt = attempt
        reason = self._lost.get(attempt.left)
        if reason is not None:
            self._end.do(lambda: attempt.fail(f"the link from the left neighbour is gone: {reason}"))
        self._resume()

    def forget(self) -> None:
        """The expected round is over in this epoch."""
        self._drop()
        self._resume()

    def _drop(self) -> None:
        self._attempt = None
        self._position.forget()

    def _resume(self) -> None:
        for remote in list(self._held):
            while (held := self._held.get(remote)) and self._route(remote, held[0]):
                if held:
                    held.popleft()

    def _arrived(self, stream: Stream, remote: PeerId, frame: Frame) -> None:
        if self._streams.get(remote) is stream and (self._held[remote] or not self._route(remote, frame)):
            self._held[remote].append(frame)

    def _route(self, remote: PeerId, frame: Frame) -> bool:
        """Whether ``frame`` is dealt with; if not, it waits."""
        attempt = self._attempt
        relation = self._position.relation(frame.epoch, frame.tag, frame.round)
        if relation is Relation.PAST:
            return True
        if relation is Relation.LATER or attempt is None:
            if attempt is not None and attempt.left == remote:
                reason = f"the left neighbour went on to epoch {frame.epoch}, round {frame.round}"
                self._end.do(lambda: attempt.fail(reason, accuse=False))
            return False
        if attempt.left != remote:
            self._forget(remote).close(self._end, "it sent a chunk but is not the left neighbour")
            return True
        attempt.take(frame)
        return True

    def _gone(self, stream: Stream, remote: PeerId, reason: str) -> None:
        if self._streams.get(remote) is not stream:
            return
        self._forget(remote)
        self._lost[remote] = reason
        attempt = self._attempt
        if attempt is not None and attempt.left == remote:
            attempt.fail(f"the link from the left neighbour is gone: {reason}")

    def _forget(self, remote: PeerId) -> Stream:
        self._held.pop(remote, None)
        return self._streams.pop(remote)
