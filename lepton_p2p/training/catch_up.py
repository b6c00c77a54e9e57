"""How a newcomer gets the state while the others go on.

It takes part in rounds with weight 0 and keeps their results, while the state from before the first of them is fetched
in a thread; then it replays what it kept with the same code as everyone else, and is bit-identical.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from lepton_p2p.rounds.result import RoundResult
from lepton_p2p.training.collective import StateSource
from lepton_p2p.training.snapshots import Snapshot
from lepton_p2p.training.state import Schema, raw

IN_MEMORY = 256 << 20
"""Bytes of kept results in memory; beyond that they go to a temporary file, since a slow link may need many rounds."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A result and where its tensors lie."""

    result: RoundResult
    tensors: list[Tensor]


class KeptResults:
    """Results of rounds in order, with their tensors; ``template`` gives dtypes and shapes."""

    def __init__(self, template: Sequence[Tensor]) -> None:
        self._template = list(template)
        self._results: list[RoundResult] = []
        self._file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115  # closed by close()

    def __len__(self) -> int:
        return len(self._results)

    def append(self, result: RoundResult, tensors: Sequence[Tensor]) -> None:
        """Keep copies.  A result without contributors has no tensors worth keeping."""
        self._results.append(result)
        if result.contributors:
            for tensor in tensors:
                self._file.write(raw(tensor).numpy().data)

    def replay(self) -> Iterator[Kept]:
        """Once, in order; the tensors are overwritten by the next step of the iteration."""
        room = [torch.empty(tensor.shape, dtype=tensor.dtype) for tensor in self._template]
        self._file.seek(0)
        for result in self._results:
            if result.contributors:
                for tensor in room:
                    data = self._file.read(tensor.numel() * tensor.element_size())
                    if data:
                        tensor.view(-1).view(torch.uint8).copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
            yield Kept(result, room)

    def close(self) -> None:
        self._file.close()


class CatchUp:
    """One attempt: fetch the state after ``base`` and keep the results of the rounds from ``base + 1`` on."""

    def __init__(self, source: StateSource, schema: Schema, base: int, template: Sequence[Tensor]) -> None:
        self.base = base
        self.kept = KeptResults(template)
        self._cancelled = threading.Event()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="lepton-fetch")
        self._fetch: Future[Snapshot] = self._executor.submit(source.fetch, base, schema, self._cancelled)

    @property
    def done(self) -> bool:
        """Whether the fetch has ended, well or not."""
        return self._fetch.done()

    def finish(self, restore: Callable[[Snapshot], None], apply: Callable[[Kept], None]) -> None:
        """Restore and replay; raises what the fetch raised."""
        restore(self._fetch.result())
        for kept in self.kept.replay():
            apply(kept)

    def close(self) -> None:
        """Cancel the fetch, wait for its thread, forget what was kept."""
        self._cancelled.set()
        self._executor.shutdown(wait=True, cancel_futures=True)
        self.kept.close()
