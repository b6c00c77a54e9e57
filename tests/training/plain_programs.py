"""Programs with loops of their own, as threads of a fake swarm."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from all_reduce_steps import IDS, at
from fake_swarm import DEADLINE, FakeCollective, FakeSwarm, WatchedStore
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from lepton_p2p.identity import PeerId
from lepton_p2p.rounds.aggregation import Aggregation
from lepton_p2p.training.checkpoints import Upkeep
from lepton_p2p.training.plain import PlainTraining, Share
from lepton_p2p.training.swarm_loader import SwarmLoader
from lepton_p2p.training.swarm_optimizer import SwarmOptimizer

SAMPLES = 97
"""One more than 8 rounds of 3 peers with 4 samples each: in the last round of a pass only one of them has a sample."""
BATCH = 4
SEED = 5
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=0.01),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1),
}


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(SAMPLES, 6, generator=generator)
    return x, (x @ torch.randn(6, 3, generator=generator)).argmax(dim=1)


class Indexed(TensorDataset):
    """Samples that say which they are."""

    def __init__(self) -> None:
        super().__init__(*data(), torch.arange(SAMPLES))


def network(seed: int = 1) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


class Program:
    """A thread with its own model; ``run(self)`` is what the user wrote."""

    def __init__(
        self,
        swarm: FakeSwarm,
        me: PeerId,
        run: Callable[[Program], object],
        *,
        model: nn.Module | None = None,
        make: Callable[[Any], torch.optim.Optimizer] = OPTIMIZERS["sgd"],
        loader: bool = True,
        shuffle: bool = True,
        seen: Callable[[], int | None] = lambda: 0,
        collective: FakeCollective | None = None,
        upkeep: Upkeep | None = None,
        quorum: int = 1,
        aggregation: Aggregation | None = None,
    ) -> None:
        self.me, self.swarm, self.model = me, swarm, model or network()
        store = WatchedStore(swarm)
        swarm.stores[me] = store
        self.inner = make(self.model.parameters())
        self.training = PlainTraining(
            self.model,
            self.inner,
            collective=collective or FakeCollective(swarm, me),
            state_source=swarm,
            store=store,
            seen=seen,
            upkeep=upkeep,
            quorum=quorum,
            aggregation=aggregation,
        )
        if loader:
            self.training.attach(Share(SAMPLES, BATCH, SEED, shuffle))
        self.loader = SwarmLoader(lambda: self.training, Indexed(), BATCH)
        self.optimizer = SwarmOptimizer(self.inner, self.training)
        self.batches: list[tuple[int, list[int]]] = []
        self.lrs: list[float] = []
        self.scheduler: torch.optim.lr_scheduler.LRScheduler | None = None
        self.error: BaseException | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(run,), name=f"program-{me[-2:]}")

    def start(self) -> Program:
        self._thread.start()
        self._started.set()
        return self

    def _work(self, run: Callable[[Program], object]) -> None:
        try:
            run(self)
        except BaseException as error:
            self.error = error
        finally:
            self.training.close("it has ended")
            self.swarm.kill(self.me)

    def finish(self) -> Program:
        """Wait for its end, and raise what it raised."""
        assert self._started.wait(DEADLINE), f"{self._thread.name} was never started"
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive(), f"{self._thread.name} hangs"
        if self.error is not None:
            raise self.error
        return self

    def one_step(self, x: Tensor, y: Tensor, **arguments: float) -> None:
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(x), y).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step(**arguments)
        if self.scheduler is not None:
            self.scheduler.step()
        self.lrs.append(float(self.inner.param_groups[0]["lr"]))


def train(passes: int, *, schedule: bool = False) -> Callable[[Program], None]:
    """The plain loop."""

    def run(program: Program) -> None:
        if schedule:
            program.scheduler = torch.optim.lr_scheduler.StepLR(program.optimizer, step_size=4, gamma=0.7)
        for number in program.loader.passes(passes):
            for x, y, index in program.loader:
                program.one_step(x, y)
                program.batches.append((number, index.tolist()))

    return run


def start(swarm: FakeSwarm, count: int, run: Callable[[Program], object], **options: Any) -> list[Program]:
    swarm.found(IDS[:count])
    programs = [Program(swarm, me, run, **options) for me in IDS[:count]]
    for program in programs:
        program.start()
    return programs


def join_when(swarm: FakeSwarm, program: Program, round: int) -> None:
    """Start ``program`` so that its first round is the one after ``round``."""

    def wait_for_it() -> None:
        program.start()
        assert swarm.changed.wait_for(lambda: program.me in swarm._waiting, DEADLINE)

    at(swarm, round, wait_for_it)
