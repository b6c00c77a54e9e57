"""Makes the attempt at a pending round: on the ring, or as a butterfly if contributions are to be compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import structlog

from lepton_p2p.collectives.attempt import Attempt, Broken, Outcome
from lepton_p2p.collectives.boards import Boards
from lepton_p2p.collectives.buffers import BufferPool
from lepton_p2p.collectives.butterfly_attempt import ButterflyAttempt
from lepton_p2p.collectives.epoch_links import EpochLinks, Ready
from lepton_p2p.collectives.inspection import inspect, own_record
from lepton_p2p.collectives.pending import Pending, layout_for, root_rank
from lepton_p2p.collectives.retention import Workspace
from lepton_p2p.identity import PeerId
from lepton_p2p.rounds.aggregation import Aggregation
from lepton_p2p.rounds.effects import Run
from lepton_p2p.rounds.epoch import Epoch
from lepton_p2p.rounds.patience import Patience, PatienceConfig
from lepton_p2p.rounds.records import Record
from lepton_p2p.rounds.result import RoundResult
from lepton_p2p.tasks import OwnedTasks
from lepton_p2p.transport.links.arrivals import Arrivals
from lepton_p2p.transport.links.link import Link

_log = structlog.get_logger(__name__)


class Running(Protocol):
    """An attempt, of whichever kind."""

    def start(self) -> None: ...

    def halt(self) -> None: ...


class Starter:
    """Knows what attempts need besides their round: links, memory, and how patient to be with whom."""

    def __init__(
        self,
        me: PeerId,
        *,
        links: EpochLinks,
        arrivals: Arrivals,
        boards: Boards,
        pool: BufferPool,
        tasks: OwnedTasks,
        patience: PatienceConfig,
    ) -> None:
        self._me = me
        self._links, self._arrivals, self._boards = links, arrivals, boards
        self._pool, self._tasks, self._patience = pool, tasks, patience
        self._paces: dict[tuple[PeerId, bool], Patience] = {}
        """By peer, and whether others send at the same time: a link that is shared is slower."""
        self._warned = 0

    def move(self, epoch: Epoch) -> None:
        """Forget the pace of those that are not members of ``epoch``."""
        self._paces = {(peer, shared): pace for (peer, shared), pace in self._paces.items() if peer in epoch.ids}

    def when_ready(self, pending: Pending, then: Ready) -> None:
        """Call ``then`` with the links that an attempt at ``pending`` sends on, when they are open."""
        if pending.packed.aggregation is None:
            self._links.when_ready(then)
        else:
            self._links.when_all_ready(then)

    def make(
        self,
        run: Run,
        pending: Pending,
        links: dict[PeerId, Link],
        *,
        previous: int,
        on_done: Callable[[Outcome], None],
        on_broken: Callable[[Broken], None],
        on_hop: Callable[[int], None],
    ) -> tuple[Running, Workspace]:
        """The attempt, not started, and where it makes its result; ``previous``: digest of the last result."""
        boards = self._boards
        record = own_record(self._me, pending, previous, shares=boards.shares, board=boards.newest)
        arguments = (run, pending, links, record, on_done, on_broken, on_hop)
        if pending.packed.aggregation is None:
            return self._on_the_ring(*arguments)
        return self._as_butterfly(pending.packed.aggregation, *arguments)

    def say_if_too_few(self, pending: Pending, result: RoundResult) -> None:
        """Warn, once in an epoch, that an aggregation cannot leave out as many as it should."""
        aggregation = pending.packed.aggregation
        if aggregation is None or result.trimmed >= aggregation.wanted or self._warned == result.epoch:
            return
        self._warned = result.epoch
        _log.warning(
            f"too few members contribute for {aggregation.rule} to withstand what it should; add members",
            contributors=len(result.contributors),
            trimmed=result.trimmed,
            wanted=aggregation.wanted,
            epoch=result.epoch,
        )

    def _on_the_ring(
        self,
        run: Run,
        pending: Pending,
        links: dict[PeerId, Link],
        record: Record,
        on_done: Callable[[Outcome], None],
        on_broken: Callable[[Broken], None],
        on_hop: Callable[[int], None],
    ) -> tuple[Running, Workspace]:
        epoch, packed = run.epoch, pending.packed
        layout = layout_for(packed, pending.root, epoch.ids)
        board = self._boards.memory(run.round, layout.total)
        work = self._pool.take(layout.total) if board is None else board
        right = next(iter(links.values()), None)
        attempt = Attempt(
            epoch=epoch,
            round=run.round,
            me=self._me,
            layout=layout,
            reduce_hops=packed.reduce_hops(len(epoch.ids)),
            op=packed.op,
            source=packed.source(epoch.ids.index(self._me), root=root_rank(packed, pending.root, epoch.ids)),
            work=work,
            common=board is not None,
            record=record.encode(),
            inspect=lambda records: inspect(record, epoch, packed.op, records),
            right=right,
            arrivals=self._arrivals,
            patience=self._pace(epoch.left_of(self._me), shared=False),
            on_done=on_done,
            on_broken=on_broken,
            on_hop=on_hop,
        )
        return attempt, Workspace(work, tuple(links.values()), common=board is not None)

    def _as_butterfly(
        self,
        aggregation: Aggregation,
        run: Run,
        pending: Pending,
        links: dict[PeerId, Link],
        record: Record,
        on_done: Callable[[Outcome], None],
        on_broken: Callable[[Broken], None],
        on_hop: Callable[[int], None],
    ) -> tuple[Running, Workspace]:
        epoch, packed = run.epoch, pending.packed
        layout = layout_for(packed, None, epoch.ids)
        work = self._pool.take(layout.total)
        attempt = ButterflyAttempt(
            epoch=epoch,
            round=run.round,
            me=self._me,
            layout=layout,
            aggregation=aggregation,
            votes_start=packed.votes_start,
            source=packed.source(epoch.ids.index(self._me)),
            work=work,
            record=record.encode(),
            inspect=lambda records: inspect(record, epoch, packed.op, records),
            links=links,
            arrivals=self._arrivals,
            paces={peer: self._pace(peer, shared=True) for peer in links},
            pool=self._pool,
            tasks=self._tasks,
            on_done=on_done,
            on_broken=on_broken,
            on_hop=on_hop,
        )
        return attempt, Workspace(work, tuple(links.values()), common=False)

    def _pace(self, peer: PeerId, *, shared: bool) -> Patience:
        return self._paces.setdefault((peer, shared), Patience(self._patience))
