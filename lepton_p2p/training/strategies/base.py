"""What a strategy is: how replicas are kept together.  One interface for those with and without rounds."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeVar

from torch import nn

from lepton_p2p.errors import ConfigError
from lepton_p2p.jobs import Job
from lepton_p2p.models import Built
from lepton_p2p.rounds.result import RoundResult
from lepton_p2p.training.checkpoints import Place
from lepton_p2p.training.collective import Collective, PairExchange, StateSource
from lepton_p2p.training.snapshots import Snapshot
from lepton_p2p.training.store import SnapshotStore


@dataclass(frozen=True)
class Context:
    """What a strategy works with.

    first_round: number of the round in which this job's training starts (1, unless the swarm did other rounds before).
    founder: this peer starts from the job's seeded state and need not ask anybody (used by strategies without rounds;
    the others find out by the rounds).  stop: set when the user wants to stop; nothing may wait for long after that.
    quorum: how many members must hold the state before the training starts.
    """

    job: Job
    built: Built
    collective: Collective
    state_source: StateSource
    exchange: PairExchange | None = None
    store: SnapshotStore = field(default_factory=SnapshotStore)
    stop: threading.Event = field(default_factory=threading.Event)
    first_round: int = 1
    founder: bool = False
    quorum: int = 1


@dataclass(frozen=True, slots=True)
class Report:
    """What one :meth:`Strategy.advance` did.

    step: optimizer steps so far (of the swarm, or of this peer where every peer makes its own).  samples: used by the
    whole swarm since the start, as far as this peer knows.  new_samples: by this call.  loss: mean over them (None:
    there were none).  skipped: samples given up because their numbers were not finite.  result: of the round, if any.
    metrics: what the strategy measures of itself, by name; shown beside those of the evaluation.
    """

    step: int
    pass_number: int
    samples: int
    new_samples: int = 0
    loss: float | None = None
    skipped: int = 0
    result: RoundResult | None = None
    metrics: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))


class Strategy(ABC):
    """Used by one thread: ``advance()`` until ``finished``, then ``finish()``; always ``close()``."""

    @property
    @abstractmethod
    def model(self) -> nn.Module:
        """What is trained; valid between calls while ``ready``."""

    @property
    @abstractmethod
    def ready(self) -> bool:
        """Whether the model holds the swarm's state (and not one that has yet to be replaced by it)."""

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether the schedule is complete, for this peer and for all that depend on it."""

    @property
    @abstractmethod
    def place(self) -> Place:
        """How far the swarm's training has come, as far as this peer knows."""

    @property
    @abstractmethod
    def founded(self) -> bool:
        """Whether the training started from what this peer held itself."""

    @abstractmethod
    def capture(self) -> Snapshot:
        """Everything that the training goes on from; a copy, while ``ready`` and between two calls of ``advance``."""

    @abstractmethod
    def resume(self, snapshot: Snapshot) -> None:
        """Before the first ``advance``: become what an earlier ``capture`` gave, if the training starts with this peer.

        ``SchemaMismatch`` or ``IntegrityError`` if it is of another kind.
        """

    @abstractmethod
    def advance(self) -> Report:
        """One round, or one local step.  Raises ``Closed``, ``SchemaMismatch``, ``StateLost``, ``RoundRejected``."""

    @abstractmethod
    def finish(self) -> Report:
        """After the last ``advance``: make all replicas equal, if they are not."""

    @abstractmethod
    def welcome(self) -> Report:
        """After ``finish``: one more round, on all members, that gives the final state to those that came late."""

    @abstractmethod
    def close(self) -> None:
        """End what runs beside the training thread; idempotent."""


_STRATEGIES: dict[str, Callable[[Context], Strategy]] = {}


S = TypeVar("S", bound=Callable[[Context], Strategy])


def strategy(name: str) -> Callable[[S], S]:
    """Class decorator: the strategy that jobs call ``name`` (its options: ``jobs/strategy_options.py``)."""

    def register(cls: S) -> S:
        _STRATEGIES[name] = cls
        return cls

    return register


def make_strategy(context: Context) -> Strategy:
    """The strategy that the job asks for."""
    name = context.job.strategy.name
    if name not in _STRATEGIES:
        raise ConfigError(f"strategy {name!r} is known to jobs but not implemented in this version")
    return _STRATEGIES[name](context)
