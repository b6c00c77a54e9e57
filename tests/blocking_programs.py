"""Programs with a plain loop in processes of their own, which do one thing after the other as the test tells them."""

from __future__ import annotations

import asyncio
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lepton_p2p as lp
from lepton_p2p.rounds.result import RoundResult
from lepton_p2p.runtime.program_rounds import ProgramRounds
from lepton_p2p.runtime.services import member_statuses
from lepton_p2p.runtime.warm_up import warm_up_torch
from lepton_p2p.training import params_digest
from lepton_p2p.training.swarm_optimizer import SwarmOptimizer

warm_up_torch()  # once, in the process from which all programs are forked
DEADLINE = 30.0
"""Seconds for anything; many times what the slowest thing takes on a busy machine, so that it never decides a test."""
SAMPLES, BATCH, SEED = 97, 4, 5
Log = list[tuple[int, tuple[str, ...], tuple[str, ...], tuple[str, ...], dict[str, bytes]]]


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(SAMPLES, 6, generator=generator)
    return x, (x @ torch.randn(6, 3, generator=generator)).argmax(dim=1)


def network(seed: int = 1, width: int = 8) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 3))


class Inside:
    """The program, inside of its process."""

    swarm: lp.Swarm
    model: nn.Module
    optimizer: SwarmOptimizer

    def __init__(self, tell: Callable[[object], None]) -> None:
        self.tell = tell
        self.log: Log = []
        torch.set_num_threads(1)

    def start(self, join: str | None = None, **options: Any) -> tuple[str, str]:
        self.swarm = lp.init_distributed(join=join, listen="127.0.0.1:0", preset="local", **options)
        return self.swarm.address, self.swarm.id

    def wait(self, count: int) -> int:
        return len(self.swarm.wait_for_members(count, timeout=DEADLINE))

    def make(self, seed: int = 1, width: int = 8) -> None:
        self.model = network(seed, width)
        inner = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        self.optimizer = self.swarm.optimizer(inner, self.model)
        self.loader = self.swarm.dataloader(torch.utils.data.TensorDataset(*data()), BATCH, seed=SEED)
        self._keep_log()
        self.waited_for = threading.Event()
        self.swarm._node.arrivals.on_early = self.waited_for.set

    def wait_to_be_waited_for(self) -> None:
        """Return when somebody has begun a round that this program has not."""
        assert self.waited_for.wait(DEADLINE)

    def address(self) -> str:
        return self.swarm.address

    def id(self) -> str:
        return self.swarm.id

    def gone(self) -> list[str]:
        """What became of those that are not there any more."""
        view = asyncio.run_coroutine_threadsafe(self._view(), self.swarm._thread.loop).result(DEADLINE)
        return [status for status in view if status != "ALIVE"]

    async def _view(self) -> list[str]:
        return [member.status.name for member in member_statuses(self.swarm._node)]

    def _keep_log(self) -> None:
        """Every round, those that the loader runs included."""
        rounds: ProgramRounds = self.swarm._rounds
        plain = rounds.all_reduce

        def all_reduce(*arguments: Any, **options: Any) -> RoundResult:
            result = plain(*arguments, **options)
            self.log.append((result.round, result.members, result.contributors, result.refused, dict(result.notes)))
            return result

        rounds.all_reduce = all_reduce  # type: ignore[method-assign]

    def train(self, passes: int, stop_at: int | None = None) -> int:
        """The plain loop; returns the digest of the parameters."""
        for _ in self.loader.passes(passes):
            for x, y in self.loader:
                self.optimizer.zero_grad()
                nn.functional.cross_entropy(self.model(x), y).backward()  # type: ignore[no-untyped-call]
                self.optimizer.step()
                self.tell(("step", self.optimizer.steps))
                if self.optimizer.steps == stop_at:
                    return self.digest()
        return self.digest()

    def digest(self) -> int:
        return params_digest(self.model)

    def parameters(self) -> list[list[float]]:
        return [parameter.detach().reshape(-1).tolist() for parameter in self.model.parameters()]

    def rounds(self) -> Log:
        return self.log

    def barrier(self) -> int:
        return len(self.swarm.barrier().members)

    def collectives(self, rank: int, root: str) -> tuple[float, float, dict[str, float], str]:
        """A sum, a broadcast and a gather of small tensors, and the phase that the status tells."""
        total, copied, own = torch.tensor([1.0 + rank]), torch.tensor([float(rank)]), torch.tensor([10.0 * rank])
        self.swarm.all_reduce(total, op="sum")
        self.swarm.broadcast(copied, root=lp.PeerId(root))
        gathered = self.swarm.all_gather(own)
        rows = {peer: float(row[0]) for peer, row in gathered.tensors.items()}
        return float(total), float(copied), rows, self.swarm.status().phase.name

    def step_until_interrupted(self) -> str:
        """Train with nobody else until Ctrl+C."""
        try:
            self.train(1)
        except KeyboardInterrupt:
            return "interrupted"
        return "done"

    def again(self) -> bool:
        """Whether another call gives the same swarm, also by the other name."""
        return lp.initdistributed() is self.swarm is lp.init_distributed("127.0.0.1:1")

    def close(self) -> tuple[bool, list[str]]:
        """Close twice; tells whether it says so, and the threads that are left."""
        with self.swarm:
            pass
        self.swarm.close()
        try:
            self.swarm.barrier()
        except lp.Closed:
            return self.swarm.closed, [thread.name for thread in threading.enumerate()]
        raise AssertionError("a closed swarm took part in a barrier")

    def start_inside_a_loop(self, join: str) -> int:
        """As in a notebook: the main thread has an event loop, which is running."""

        async def cell() -> int:
            self.start(join)
            return self.wait(2)

        return asyncio.run(cell())

    def environment(self, **variables: str) -> None:
        os.environ.update(variables)

    def init(self, **options: Any) -> None:
        lp.init_distributed(**options)


def serve(pipe: Connection) -> None:
    """The process: requests come and replies go by the pipe."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    inside = Inside(pipe.send)
    while True:
        try:
            do, arguments = pipe.recv()
        except EOFError:
            os._exit(0)  # the test is gone
        try:
            pipe.send(("done", getattr(inside, do)(**arguments)))
        except BaseException as error:
            pipe.send(("failed", f"{type(error).__name__}: {error}\n{traceback.format_exc()}"))


def zygote() -> ForkServerContext:
    """The process from which all programs are forked, with everything imported: started by the first call."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with pytest.MonkeyPatch.context() as patch:
        # It does not take over sys.path, and passes over in silence what it cannot import.
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        multiprocessing.forkserver.ensure_running()
    return context


class Program:
    """The test's end."""

    def __init__(self) -> None:
        context = zygote()
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        self.steps: list[int] = []

    def ask(self, do: str, **arguments: Any) -> None:
        self._pipe.send((do, arguments))

    def hear(self) -> tuple[str, Any]:
        """The next thing that it tells."""
        assert self._pipe.poll(DEADLINE), "the program does not answer"
        kind, value = self._pipe.recv()
        if kind == "step":
            self.steps.append(value)
        return kind, value

    def answer(self) -> Any:
        """What came of the last request; raises what it raised, as text."""
        while True:
            kind, value = self.hear()
            if kind == "failed":
                raise RuntimeError(value)
            if kind == "done":
                return value

    def call(self, do: str, **arguments: Any) -> Any:
        self.ask(do, **arguments)
        return self.answer()

    def until(self, kind: str, value: int) -> None:
        """Wait until it has told ``kind`` with at least ``value``."""
        while True:
            heard = self.hear()
            if heard[0] == kind and heard[1] >= value:
                return
            assert heard[0] not in ("done", "failed"), heard

    def kill(self) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGKILL)

    def interrupt(self) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGINT)

    def end(self) -> None:
        """Whatever it does."""
        self.process.kill()
        self.process.join(DEADLINE)
        self._pipe.close()
