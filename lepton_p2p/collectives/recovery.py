"""Fetching a decided round's result from a member that holds it, checked against the agreed digest."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog
import torch

from lepton_p2p.collectives.attempt import result_digest
from lepton_p2p.collectives.epoch_links import Connect
from lepton_p2p.collectives.fetch import Fetcher
from lepton_p2p.collectives.pending import Kept, Pending, layout_for
from lepton_p2p.errors import IntegrityError, LeptonError
from lepton_p2p.identity import PeerId, PeerInfo, short
from lepton_p2p.rounds.effects import Recover
from lepton_p2p.rounds.records import Record
from lepton_p2p.tasks import OwnedTasks
from lepton_p2p.transport.links.link import Purpose
from lepton_p2p.transport.values import ResultInfo

RESULT = "result"
"""The kind under which results are served over FETCH links, by round."""

Describe = Callable[[PeerInfo, int], Awaitable[ResultInfo]]
"""Asks a holder (gRPC ``State.Result``) what it keeps of a round."""

_log = structlog.get_logger(__name__)


class Recovery:
    """Fetches the result of a round that others have finished, in the background, at most one at a time.

    take: gives a buffer of so many bytes.
    """

    def __init__(
        self,
        me: PeerId,
        tasks: OwnedTasks,
        *,
        describe: Describe,
        connect: Connect,
        take: Callable[[int], torch.Tensor],
    ) -> None:
        self._me, self._tasks = me, tasks
        self._describe, self._connect, self._take = describe, connect, take
        self._task: asyncio.Task[None] | None = None

    def start(self, wanted: Recover, pending: Pending, on_end: Callable[[Kept | None], None]) -> None:
        """``on_end`` gets the result, or None if no holder could give it; it is not called after :meth:`cancel`."""
        self._task = self._tasks.spawn(
            self._run(wanted, pending, on_end), f"recover the result of round {wanted.round}"
        )

    def cancel(self) -> None:
        """It is not wanted any more."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self, wanted: Recover, pending: Pending, on_end: Callable[[Kept | None], None]) -> None:
        # Start with a different holder on every member, so that one is not stampeded.
        turn = wanted.epoch.ids.index(self._me) % max(1, len(wanted.holders))
        kept = await fetch_result(
            wanted.round,
            wanted.digest,
            wanted.holders[turn:] + wanted.holders[:turn],
            pending,
            describe=self._describe,
            connect=self._connect,
            take=self._take,
        )
        self._task = None
        on_end(kept)


async def fetch_result(
    round: int,
    digest: int,
    holders: Sequence[PeerInfo],
    pending: Pending,
    *,
    describe: Describe,
    connect: Connect,
    take: Callable[[int], torch.Tensor],
) -> Kept | None:
    """Ask ``holders`` in turn for the result of ``round``; None if none of them could give it.

    ``take(nbytes)`` gives the buffer.  What does not match ``digest`` is refused, said once, and the next holder
    is asked.
    """
    for holder in holders:
        try:
            info = await describe(holder, round)
            return await _fetch(info, digest, holder, pending, connect, take)
        except (LeptonError, ValueError) as error:
            _log.warning(
                "could not fetch a round's result, asking the next holder", peer=short(holder.id), why=str(error)
            )
    return None


async def _fetch(
    info: ResultInfo,
    digest: int,
    holder: PeerInfo,
    pending: Pending,
    connect: Connect,
    take: Callable[[int], torch.Tensor],
) -> Kept:
    layout = layout_for(pending.packed, pending.root, info.members)
    recorded = [Record.decode(record).peer for record in info.records]
    if info.digest != digest or info.nbytes != layout.total or sorted(recorded) != sorted(info.members):
        raise IntegrityError(f"{short(holder.id)} describes another result than the members agreed on")
    buffer = take(layout.total)
    link = await connect(holder, Purpose.FETCH)
    try:
        await Fetcher(link).fetch_range(RESULT, info.round, 0, buffer.numpy().data)
    finally:
        link.close()
    if (result_digest(buffer, layout) or 1) != digest:
        raise IntegrityError(f"the result fetched from {short(holder.id)} does not have the agreed digest")
    pending.spent.bytes_received += layout.total
    return Kept(
        info.round,
        info.epoch_number,
        info.epoch_tag,
        info.members,
        info.records,
        digest,
        info.attempts,
        layout,
        buffer,
    )
