"""Chunks from other members: to the attempt that waits for them, or held back, or thrown away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog

from lepton_p2p.identity import PeerId, short
from lepton_p2p.rounds.epoch import Epoch
from lepton_p2p.rounds.position import Position, Relation
from lepton_p2p.transport.links.allowance import Allowance
from lepton_p2p.transport.links.frames import Header, Kind
from lepton_p2p.transport.links.link import Link
from lepton_p2p.transport.links.protocol import Verdict

_log = structlog.get_logger(__name__)
_USELESS = (1 << 16, 1000.0)
"""Frames that are thrown away, at once and per second: a neighbour that has not heard yet that a round is over sends
what is left of it, which are thousands if the tensors are large."""
_CHUNKS = frozenset((Kind.CHUNK, Kind.LENT, Kind.PLACED))


class ChunkSink(Protocol):
    """The attempt that waits for the chunks of one round.  Calls come from the loop, one at a time."""

    def admit(self, header: Header, extra: bytes) -> memoryview | None:
        """Where the payload goes (exactly ``header.payload`` bytes; see ``FrameHandler``); None: throw it away."""

    def received(self, header: Header) -> None:
        """The chunk is complete and its checksum is right."""

    def corrupt(self, header: Header) -> None:
        """The chunk is complete and its checksum is wrong."""

    def lost(self, reason: str) -> None:
        """The sender's link is gone."""

    def overtaken(self, epoch: int, round: int) -> None:
        """The sender sends for a later epoch or round: it will send nothing more for this one."""


@dataclass(frozen=True, slots=True)
class _Expected:
    round: int
    sinks: Mapping[PeerId, ChunkSink]


class Arrivals:
    """Routes the chunks of all accepted ring links of one peer.

    A frame of the expected round (see ``rounds.position``) from an expected sender (the left neighbour on a ring)
    goes to its sink; one from further on holds its link (no reading, no spinning) until :meth:`expect` or
    :meth:`advance` gets there; one from behind is read and thrown away.  A sender whose link broke in this epoch is
    reported lost to the sink at once, also if that happened between rounds: links are not reopened within an epoch.
    One that sends without end what is only thrown away loses its link.
    ``on_lost(peer, reason)`` hears of every ring link that is lost.
    """

    def __init__(self, on_lost: Callable[[PeerId, str], None] | None = None) -> None:
        self.on_early: Callable[[], None] | None = None
        """Called when a chunk comes for a round that this peer has not begun: the others wait for it."""
        self.on_held: Callable[[Header], None] | None = None
        """Called with the header of every chunk that has to wait, when it comes and when it is looked at again."""
        self.on_board: Callable[[Link, Header], None] | None = None
        """Called when a peer says on ``link`` that it handed in a board: who hears it collects the descriptor."""
        self._on_lost = on_lost
        self._links: dict[PeerId, Link] = {}
        self._lost: dict[PeerId, str] = {}
        self._position = Position()
        self._expected: _Expected | None = None

    def accept(self, link: Link) -> None:
        """Take over an accepted ring link; the acceptor for ``LinkHub.serve(Purpose.RING, ...)``."""
        remote = link.remote
        if remote is None:
            link.abort("a ring link must come from a peer")
            return
        old = self._links.pop(remote, None)
        self._links[remote] = link
        self._lost.pop(remote, None)
        link.handler = _Inbound(self, link, remote)
        link.watch(lambda reason: self._link_lost(link, remote, reason))
        if old is not None:
            old.abort("replaced by a newer link from the same peer")

    def link_from(self, peer: PeerId) -> Link | None:
        """The open ring link from ``peer``."""
        return self._links.get(peer)

    def keep_only(self, peers: Collection[PeerId]) -> None:
        """Close the links of all others: a peer that was left behind learns of it at once from its broken link."""
        for remote, link in tuple(self._links.items()):
            if remote not in peers:
                link.abort("its peer is not a member of this epoch")

    def advance(self, number: int, tag: int) -> None:
        """The epoch is now ``(number, tag)``: frames of others before it are stale.  Nothing is expected yet."""
        self._drop_expected()
        if self._position.enter(number, tag):
            self._lost.clear()
        self._resume()

    def leave(self) -> None:
        """In no epoch any more: all links are closed, and what comes by new ones waits for the next epoch."""
        self._drop_expected()
        self._position.leave()
        self._lost.clear()
        self.keep_only(())

    def expect(self, epoch: Epoch, round: int, left: PeerId, sink: ChunkSink) -> None:
        """Give the chunks of ``round`` in ``epoch`` from ``left``, and nobody else, to ``sink`` until :meth:`forget`.

        Frames that were held for it may arrive at the sink before this returns.
        """
        self.expect_all(epoch, round, {left: sink})

    def expect_all(self, epoch: Epoch, round: int, sinks: Mapping[PeerId, ChunkSink]) -> None:
        """:meth:`expect` from several senders, each with a sink of its own."""
        self._drop_expected()
        if self._position.enter(epoch.number, epoch.tag):
            self._lost.clear()
        self._position.expect(round)
        self._expected = expected = _Expected(round, sinks)
        for remote, sink in sinks.items():
            reason = self._lost.get(remote)
            if reason is not None:
                asyncio.get_running_loop().call_soon(self._tell_lost, expected, sink, reason)
        self._resume()

    def forget(self) -> None:
        """The expected round is over in this epoch; the sink is not called any more, its memory not written to."""
        self._drop_expected()
        self._resume()

    def _drop_expected(self) -> None:
        expected, self._expected = self._expected, None
        self._position.forget()
        for remote in expected.sinks if expected is not None else ():
            link = self._links.get(remote)
            if link is not None:
                link.protocol.divert()

    def _resume(self) -> None:
        for link in tuple(self._links.values()):
            link.protocol.resume()

    def _tell_lost(self, expected: _Expected, sink: ChunkSink, reason: str) -> None:
        if self._expected is expected:
            sink.lost(reason)

    def _link_lost(self, link: Link, remote: PeerId, reason: str) -> None:
        if self._links.get(remote) is not link:
            return
        del self._links[remote]
        self._lost[remote] = reason
        expected = self._expected
        if expected is not None and remote in expected.sinks:
            expected.sinks[remote].lost(reason)
        if self._on_lost is not None:
            self._on_lost(remote, reason)

    def _route(self, link: Link, remote: PeerId, header: Header, extra: bytes) -> memoryview | Verdict:
        if header.kind is Kind.BOARD and self.on_board is not None:
            self.on_board(link, header)
            return Verdict.DRAIN
        if header.kind not in _CHUNKS:
            link.abort(f"the remote sent {header.kind.name} on a ring link")
            return Verdict.DRAIN
        expected = self._expected
        relation = self._position.relation(header.epoch, header.tag, header.round)
        if relation is Relation.PAST:
            return Verdict.DRAIN
        if relation is Relation.LATER or expected is None:
            if expected is not None and remote in expected.sinks:
                asyncio.get_running_loop().call_soon(self._tell_overtaken, expected, remote, header)
            if expected is None and self.on_early is not None:
                self.on_early()
            if self.on_held is not None:
                self.on_held(header)
            return Verdict.HOLD
        sink = expected.sinks.get(remote)
        if sink is None:
            _log.warning("a peer that is not the left neighbour sent a chunk; closed its link", peer=short(remote))
            link.abort("it sent a chunk but is not the left neighbour")
            return Verdict.DRAIN
        target = sink.admit(header, extra)
        # The sink may have given up on seeing this very frame: then nothing may be written to its memory.
        return Verdict.DRAIN if target is None or self._expected is not expected else target

    def _tell_overtaken(self, expected: _Expected, remote: PeerId, header: Header) -> None:
        if self._expected is expected:
            expected.sinks[remote].overtaken(header.epoch, header.round)

    def _finished(self, remote: PeerId, header: Header, *, intact: bool) -> None:
        expected = self._expected
        if expected is not None:
            sink = expected.sinks[remote]
            (sink.received if intact else sink.corrupt)(header)


class _Inbound:
    """The handler of one ring link."""

    def __init__(self, arrivals: Arrivals, link: Link, remote: PeerId) -> None:
        self._arrivals = arrivals
        self._link = link
        self._remote = remote
        self._useless = Allowance(*_USELESS)
        self._loop = asyncio.get_running_loop()

    def admit(self, header: Header, extra: bytes) -> memoryview | Verdict:
        verdict = self._arrivals._route(self._link, self._remote, header, extra)
        if verdict is Verdict.DRAIN and self._link.closed is None and not self._useless.spend(self._loop.time()):
            _log.warning("a peer sends without end what nobody waits for; closed its link", peer=short(self._remote))
            self._link.abort("it sent too many frames that nobody waits for")
        return verdict

    def received(self, header: Header) -> None:
        self._arrivals._finished(self._remote, header, intact=True)

    def corrupt(self, header: Header) -> None:
        self._arrivals._finished(self._remote, header, intact=False)
