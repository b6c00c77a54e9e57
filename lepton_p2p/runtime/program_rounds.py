"""Rounds for a program with a loop of its own: blocking, interruptible, and with a memory of what it has seen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from torch import Tensor

from lepton_p2p.collectives.operations import Op
from lepton_p2p.collectives.packing import Packed
from lepton_p2p.collectives.pending import Finished
from lepton_p2p.errors import Dropped, RoundRejected, SchemaMismatch, WaitTimeout
from lepton_p2p.identity import PeerId
from lepton_p2p.rounds.aggregation import Aggregation
from lepton_p2p.rounds.result import RoundResult
from lepton_p2p.runtime.loop_thread import LoopThread
from lepton_p2p.runtime.node import Node
from lepton_p2p.training.collective import Withdrawn


class RoundHistory:
    """Whether this peer took part in all rounds that its swarm has done: then it knows what there has not been."""

    def __init__(self) -> None:
        self.seen: int | None = 0
        """How many, if all; None otherwise."""

    def decided(self, round: int) -> None:
        """This peer has the result of ``round``."""
        self.seen = round if self.seen is not None and round == self.seen + 1 else None

    def rejected(self) -> None:
        """The next round had no result."""
        self.seen = self.seen + 1 if self.seen is not None else None

    def restart(self) -> None:
        """This peer is outside of all epochs; the next that it enters may be a new swarm's first."""
        self.seen = 0

    def withdrawn(self, node: Node) -> None:
        """This peer took a round back; alone, it stays where it is."""
        if node.rounds.epoch is None:
            self.restart()
        elif self.seen is not None:
            self.seen = node.rounds.completed


class ProgramRounds:
    """``training.Collective`` for the thread of a program; Ctrl+C takes the round back (:class:`Withdrawn`).

    enter: called on the loop before each round; makes the peer take part if it does not yet.  ``patience``: seconds
    after which a round is given up with :class:`WaitTimeout`; None: never.
    """

    def __init__(self, node: Node, loop: LoopThread, history: RoundHistory, enter: Callable[[], None]) -> None:
        self.patience: float | None = None
        self._node, self._loop, self._history, self._enter = node, loop, history, enter
        self._gathered = node.options.min_peers <= 1

    @property
    def me(self) -> PeerId:
        return self._node.me.id

    def members(self) -> tuple[PeerId, ...]:
        """Who is in the epoch, in ring order; nobody while this peer is outside."""
        epoch = self._node.rounds.epoch
        return epoch.ids if epoch is not None else ()

    def state_begins(self, work: int) -> None:
        """See ``training.Collective``."""
        self._loop.call(self._state_begins(work))

    def state_holds(self, work: int) -> None:
        """See ``training.Collective``."""
        self._loop.call(self._state_holds(work))

    def all_reduce(
        self,
        tensors: Sequence[Tensor],
        *,
        op: str = "mean",
        weight: float = 1.0,
        note: bytes = b"",
        state_digest: int = 0,
        aggregation: Aggregation | None = None,
    ) -> RoundResult:
        """See ``training.Collective``."""
        pool = self._node.rounds.pool
        packed = Packed.pack(tensors, Op(op), weight=weight, pool=pool, aggregation=aggregation)
        call = _Round(self._node, packed, weight, note, state_digest)
        try:
            if not self._gathered:
                self._loop.call(self._gather())
                self._gathered = True
            finished = self._loop.call(self._run(call), give_up=call.give_up)
        except Dropped:
            self._history.restart()
            raise
        except (RoundRejected, SchemaMismatch):
            self._history.rejected()
            raise
        except (Withdrawn, WaitTimeout):
            self._history.withdrawn(self._node)
            raise
        packed.unpack(finished.kept.buffer, tensors)
        self._history.decided(finished.result.round)
        return finished.result

    async def _state_begins(self, work: int) -> None:
        self._node.state_begins(work)

    async def _state_holds(self, work: int) -> None:
        self._node.state_holds(work)

    async def _gather(self) -> None:
        self._enter()
        await self._node.unless_failed(self._node.gathered())

    async def _run(self, call: _Round) -> Finished:
        self._enter()
        try:
            async with asyncio.timeout(self.patience):
                return await self._node.unless_failed(call.run())
        except TimeoutError:
            raise WaitTimeout(f"the round was not decided within {self.patience:g} s") from None


class _Round:
    """One round on the loop that can be given up at any time, with a definite outcome."""

    def __init__(self, node: Node, packed: Packed, weight: float, note: bytes, state: int) -> None:
        self._rounds = node.rounds
        self._packed, self._weight, self._note, self._state = packed, weight, note, state
        self._unwanted = False

    async def run(self) -> Finished:
        if self._unwanted:
            raise asyncio.CancelledError
        return await self._rounds.run(self._packed, weight=self._weight, note=self._note, state=self._state)

    def give_up(self) -> None:
        """Take the input back, if the round is not decided yet; on the loop."""
        self._unwanted = True
        self._rounds.withdraw("its program interrupted the round")
