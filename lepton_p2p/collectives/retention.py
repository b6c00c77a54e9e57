"""What is kept so that a round can be finished by whoever survives: results for others, buffers until they are sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lepton_p2p.collectives.buffers import BufferPool
from lepton_p2p.collectives.fetch import FetchServer
from lepton_p2p.collectives.pending import Kept
from lepton_p2p.collectives.recovery import RESULT
from lepton_p2p.tasks import OwnedTasks
from lepton_p2p.transport.links.link import Link


@dataclass(frozen=True, slots=True)
class Workspace:
    """Where an attempt makes its result, and the links that may still send from there; common: on a board."""

    memory: torch.Tensor
    links: Sequence[Link]
    common: bool


class Retention:
    """The last result, served to members that miss it, and the buffers of attempts that are over."""

    def __init__(self, pool: BufferPool, server: FetchServer, tasks: OwnedTasks) -> None:
        self._pool, self._server, self._tasks = pool, server, tasks
        self._kept: Kept | None = None

    def of(self, round: int) -> Kept | None:
        """The result of ``round``, if it is the one that is kept."""
        return self._kept if self._kept is not None and self._kept.round == round else None

    def keep(self, kept: Kept, links: Sequence[Link]) -> None:
        """Keep ``kept`` instead of the result before it, which by now everyone has."""
        before, self._kept = self._kept, kept
        if before is not None:
            self._server.withdraw(RESULT, before.round)
            if kept.common and not before.common:
                self._pool.forget(before.buffer.numel())  # while there is a board they are not needed
            else:
                self.give_back(Workspace(before.buffer, links, before.common))
        view = kept.buffer.numpy().data
        self._server.provide(RESULT, kept.round, lambda offset, length: view[offset : offset + length])

    def close(self) -> None:
        """Keep nothing any more."""
        if self._kept is not None:
            self._server.withdraw(RESULT, self._kept.round)
            self._kept = None

    def give_back(self, workspace: Workspace) -> None:
        """Reuse its memory, unless others see it, once its links have sent everything that may still refer to it."""
        if workspace.common:
            return
        busy = [link for link in workspace.links if link.buffered]
        if not busy:
            self._pool.give(workspace.memory)
        else:
            self._tasks.spawn(self._give_back_later(workspace.memory, busy), "wait for links to drain")

    async def _give_back_later(self, buffer: torch.Tensor, links: Sequence[Link]) -> None:
        for link in links:
            await link.drained()
        self._pool.give(buffer)
