"""Synchronous training of a program's own loop: what stands behind ``swarm.optimizer`` and ``swarm.dataloader``."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import structlog
import torch
from torch import nn

from lepton_p2p.errors import ConfigError, IntegrityError, SchemaMismatch
from lepton_p2p.replication.cursor import Cursor
from lepton_p2p.replication.ranges import Range, size_of
from lepton_p2p.rounds.aggregation import Aggregation
from lepton_p2p.rounds.result import RoundResult
from lepton_p2p.training.checkpoints import Upkeep, place_of
from lepton_p2p.training.collective import Collective, StateSource
from lepton_p2p.training.lockstep import Lockstep
from lepton_p2p.training.plain_replica import PlainReplica
from lepton_p2p.training.sampler import Sampler
from lepton_p2p.training.snapshots import Snapshot
from lepton_p2p.training.store import SnapshotStore

LAST_SECONDS = 5.0
"""How long a program that ends waits for a checkpoint that is being written, to write a last one after it."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Share:
    """How a data set of ``total`` samples is shared out: ``batch`` of them for each peer and step.

    :class:`ConfigError` for numbers that make no sense.
    """

    total: int
    batch: int
    seed: int
    shuffle: bool

    def __post_init__(self) -> None:
        try:
            Cursor.from_json(self.cursor().to_json())
        except ValueError:
            raise ConfigError(
                f"a data set of {self.total} samples with batch_size={self.batch} and seed={self.seed}: all must be "
                "whole numbers, the first two at least 1"
            ) from None

    def cursor(self) -> Cursor:
        """Where it begins."""
        return Cursor(self.total, self.seed, self.batch)


@dataclass(slots=True, eq=False)
class Turn:
    """One iteration over a loader: ``pass_number`` of the pass that it goes through."""

    pass_number: int


class PlainTraining:
    """One replica of ``model`` and ``optimizer``, used by one thread.

    A peer that has not got the swarm's state (it joined late, was dropped, or took a round back) gets it inside of the
    next call that needs it: it takes part in rounds with weight 0, fetches the snapshot, replays what happened since.

    seen: how many rounds the swarm has done, if this peer took part in all of them.  quorum: how many members must hold
    the state before the training starts.  upkeep: sees to checkpoints.  guard: entered around every round
    with all that belongs to it; an interruption must not come in between.  aggregation: what stands in the place of the
    mean of gradients.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        collective: Collective,
        state_source: StateSource,
        store: SnapshotStore,
        seen: Callable[[], int | None],
        guard: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
        quorum: int = 1,
        upkeep: Upkeep | None = None,
        aggregation: Aggregation | None = None,
    ) -> None:
        if aggregation is not None:
            aggregation = replace(aggregation, votes=1)  # the replica's last tensor holds hyperparameters
        self._robust = aggregation is not None
        self.replica = PlainReplica(model, optimizer, voted=self._robust)
        self._collective = collective
        self._guard = guard
        self._lockstep = Lockstep(
            self.replica,
            collective=collective,
            state_source=state_source,
            store=store,
            seen=seen,
            quorum=quorum,
            aggregation=aggregation,
        )
        self._upkeep = upkeep or Upkeep()
        self._recalled = False
        self._share: Share | None = None
        self._sampler = Sampler()
        self._turn: Turn | None = None
        self._claim: tuple[Range, ...] = ()
        self._last: RoundResult | None = None
        self._ended = ""

    # -- who asks ----------------------------------------------------------------------------------

    @property
    def cursor(self) -> Cursor:
        """The replicated data cursor; ``step`` counts the steps of the swarm."""
        return self.replica.cursor if self.replica.begun or self._share is None else self._share.cursor()

    @property
    def last_result(self) -> RoundResult | None:
        """Of the last round that was applied."""
        return self._last

    @property
    def established(self) -> bool:
        """Whether the model holds the swarm's state."""
        return self._lockstep.established

    def peers(self) -> int:
        """How many peers share the work now, at least one."""
        return max(1, len(self._collective.members()))

    # -- the program's loop ------------------------------------------------------------------------

    def attach(self, share: Share) -> None:
        """Share out a data set; ``RuntimeError`` after the first round, unless it is the same again."""
        if share == self._share:
            return
        if self.replica.begun:
            raise RuntimeError("the training has begun: create the data loader before the first step")
        self._share, self._sampler = share, Sampler(shuffle=share.shuffle)

    def step(self, weight: float | None = None) -> RoundResult | None:
        """One round with the gradients that the parameters hold, and the optimizer's step with their mean.

        weight: by default the number of samples that the loader gave, 1 without a loader.  None is returned if this
        peer had to get the swarm's state first: its gradient belonged to another state and did not count.
        """
        self._check_alive()
        claim = self._given_claim()
        weight = self._checked_weight(weight, claim)
        self._begin()
        self.replica.gather()
        if not self._lockstep.established and not self._enter_with_gradient():
            return None
        self._let_others_bear()
        while True:
            result = self._round(claim, weight)
            if result is not None:
                self._say_if_refused(result)
                return result
            if not self._lockstep.established:
                self.enter()
                return None

    def enter(self) -> None:
        """Take part in rounds with weight 0 until this peer holds the swarm's state, and so many others as are wanted
        for the training to start; nothing if that is so.
        """
        self._check_alive()
        self._begin()
        try:
            while not self._under_way:
                self._claim = ()  # of a state that is obsolete
                with self._guard():
                    self._lockstep.catch_up()
                    if not self._under_way:
                        self.replica.gather_nothing()
                        self._round()
        except BaseException:
            self._lockstep.close()  # a fetch in the background must not outlive the call
            raise

    def idle(self) -> None:
        """One round with weight 0, so that the others need not wait; a batch without a step goes back."""
        self._claim = ()
        self.enter()
        self.replica.gather_nothing()
        self._round()

    def begin_turn(self) -> Turn:
        """Begin to iterate over what is left of the current pass; a batch without a step comes again."""
        self._claim, self._turn = (), None
        self.enter()
        self._turn = Turn(self.cursor.pass_number)
        return self._turn

    def draw(self, turn: Turn) -> npt.NDArray[np.int64] | None:
        """The samples (indices) that are this peer's share of the coming step; None when the pass is complete.

        Runs rounds without samples while others have some and this peer has none.
        """
        if turn is not self._turn:
            raise RuntimeError("another iteration over the data loader has begun: go on with that one")
        if self._claim:
            raise RuntimeError(
                "call optimizer.step() once for every batch: the samples count as used by the step, and the other "
                "peers wait for it"
            )
        while True:
            self.enter()
            if self.cursor.pass_number != turn.pass_number:
                return None
            self._claim = self.cursor.plan().get(self._collective.me, ())
            if self._claim:
                return self._sampler.samples(self.cursor, self._claim)
            self._sit_out()

    def finish(self) -> None:
        """Go on with rounds until no member is still catching up."""
        self.enter()
        while not (self._lockstep.established and self._lockstep.all_ready):
            self.idle()

    # -- the end, and what comes from outside --------------------------------------------------------

    @property
    def needed(self) -> bool:
        """Whether a member still needs this peer's state."""
        if not self._lockstep.established or self._last is None:
            return False
        return not self._lockstep.all_ready or not set(self._collective.members()) <= set(self._last.members)

    def dropped(self) -> None:
        """The swarm went on without this peer outside of a round of this training."""
        if self.replica.begun:
            self._lockstep.enter_again()

    def stepped_out(self) -> None:
        """This peer took back a round that was not one of this training, and is outside of the epoch."""
        if self.replica.begun:
            self._lockstep.step_out()

    def close(self, reason: str) -> None:
        """Keep nothing for joiners any more; calls after this fail with ``reason``.  A last checkpoint is begun."""
        if self._lockstep.established and not self._ended:
            self._upkeep.end(place_of(self.cursor), self._capture, patience=LAST_SECONDS)
        self._ended = reason
        self._lockstep.close()

    # -- inside --------------------------------------------------------------------------------------

    @property
    def _under_way(self) -> bool:
        return self._lockstep.established and bool(self.cursor.claimants)

    def _check_alive(self) -> None:
        if self._ended:
            raise RuntimeError(self._ended)

    def _sit_out(self) -> None:
        """One round in which others have the last samples of the pass, and this peer has none.

        With an aggregation it says zero: those few are not to decide alone.
        """
        self.replica.gather_nothing()
        self._round(weight=float(self._robust and any(self.cursor.plan().values())))

    def _begin(self) -> None:
        if self.replica.begun:
            return
        if self._share is None:
            self.replica.begin()
        else:
            self.replica.begin(self._share.cursor(), shuffle=self._share.shuffle)
        # Where single peers are not trusted, none can bring in what it did apart.
        self.replica.cursor = replace(self.replica.cursor, unites=not self._robust)
        recalled = self._upkeep.recall()
        if recalled is None:
            return
        try:
            self.replica.resume(recalled)
        except (SchemaMismatch, IntegrityError) as error:
            raise type(error)(f"the checkpoint does not fit the program, resume='never' starts anew: {error}") from None
        self._recalled = True
        self._upkeep.begin(place_of(self.cursor))

    def _given_claim(self) -> tuple[Range, ...]:
        claim, self._claim = self._claim, ()
        if self._share is not None and not claim:
            raise RuntimeError(
                "optimizer.step() without a batch: call it once for each batch of swarm.dataloader(); without a "
                "loader, do not create one"
            )
        return claim

    def _checked_weight(self, weight: float | None, claim: tuple[Range, ...]) -> float:
        if weight is None:
            return float(size_of(claim)) if self._share is not None else 1.0
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"a weight is finite and at least 0, not {weight}")
        return float(weight)

    def _enter_with_gradient(self) -> bool:
        """Enter; True if the training starts with this peer's state, so that its gradient counts."""
        mine = [tensor.clone() for tensor in self.replica.tensors]
        step = self.cursor.step
        self.enter()
        recalled, self._recalled = self._recalled, False
        if self._share is not None or recalled or self.cursor.step != step or not self._lockstep.founded:
            return False
        for tensor, own in zip(self.replica.tensors, mine, strict=True):
            tensor.copy_(own)
        return True

    def _let_others_bear(self) -> None:
        """Rounds in which somebody brings its branch come first; the program's gradient waits for the next one."""
        if not self._lockstep.established or self.cursor.bearer is None:
            return
        mine = [tensor.clone() for tensor in self.replica.tensors]
        while self._lockstep.established and self.cursor.bearer is not None:
            for tensor in self.replica.tensors:
                tensor.zero_()
            self._round()
        for tensor, own in zip(self.replica.tensors, mine, strict=True):
            tensor.copy_(own)

    def _round(self, claim: tuple[Range, ...] = (), weight: float = 0.0) -> RoundResult | None:
        """A round with what the replica's tensors hold."""
        with self._guard():
            before = self.cursor.step
            claimants = self.cursor.claimants
            self.replica.propose(leading=weight > 0 and claimants[:1] == (self._collective.me,))
            try:
                result = self._lockstep.round(claim, weight=weight)
            finally:
                if self.cursor.step == before:
                    self.replica.hyper.take_back()
            self._last = result or self._last
            if self._lockstep.established:
                self._upkeep.between_steps(place_of(self.cursor), self._capture, founded=self._lockstep.founded)
            return result

    def _capture(self) -> Snapshot:
        return self.replica.capture(self._last.round if self._last is not None else 0)

    def _say_if_refused(self, result: RoundResult) -> None:
        if self._collective.me in result.refused:
            log.warning("this peer's gradients are not finite and did not count in this step", round=result.round)
