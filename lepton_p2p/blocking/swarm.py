"""A peer as programs that block see it: rounds, an optimizer and a data loader."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import structlog
import torch
from torch import Tensor, nn

from lepton_p2p.config import PeerSettings
from lepton_p2p.errors import Closed, ConfigError, Dropped, LeptonError, RoundRejected, SchemaMismatch
from lepton_p2p.identity import PeerId
from lepton_p2p.peer import Gathered, Peer, ReduceOp, RuleName
from lepton_p2p.rounds.aggregation import Aggregation
from lepton_p2p.rounds.result import RoundResult
from lepton_p2p.runtime.loop_thread import LoopThread
from lepton_p2p.runtime.program_rounds import ProgramRounds, RoundHistory
from lepton_p2p.runtime.warm_up import warm_up_torch
from lepton_p2p.training.collective import Withdrawn
from lepton_p2p.training.loop import Progress
from lepton_p2p.training.plain import PlainTraining, Share
from lepton_p2p.training.swarm_loader import Collate, SizedDataset, SwarmLoader
from lepton_p2p.training.swarm_optimizer import SwarmOptimizer
from lepton_p2p.transport.values import MemberStatus, StatusReport

T = TypeVar("T")
LINGER = 30.0
"""Seconds that a closing peer goes on with rounds for newcomers that still fetch its state."""

_log = structlog.get_logger(__name__)


class Swarm:
    """This process's peer, as seen by a program that blocks; made by :func:`init_distributed`, used by one thread.

    ``all_reduce``, ``broadcast``, ``all_gather`` and ``barrier`` are rounds of all members, atomic and with the same
    result everywhere (see :class:`Peer`).  All members must call the same ones in the same order, ``optimizer.step()``
    included; a newcomer begins with its first call, so use them where no peer joins.

    Ctrl+C in any blocking call takes the round back and raises ``KeyboardInterrupt``; the others go on without this
    peer, which enters again with its next call.
    """

    def __init__(self, settings: PeerSettings, thread: LoopThread) -> None:
        # Until the program calls something that needs the others, they need not wait for it.
        self._peer = Peer(**settings.peer_options(), enters=False, recalls=True)
        self._thread = thread
        self._process = os.getpid()
        self._closed = False
        self._training: PlainTraining | None = None
        self._share: Share | None = None
        self._history = RoundHistory()
        warm_up_torch()
        thread.start()
        try:
            thread.call(self._peer.__aenter__())
        except BaseException:
            thread.stop()
            raise
        self._id, self._address = self._peer.id, self._peer.address
        self._node, self._host = self._peer.parts
        self._rounds = ProgramRounds(self._node, thread, self._history, self._peer.enter)

    # -- who ---------------------------------------------------------------------------------------

    @property
    def id(self) -> PeerId:
        """This peer's id: 32 hex digits, new with every start."""
        return self._id

    @property
    def address(self) -> str:
        """``host:port``: what another peer passes to ``join``."""
        return self._address

    @property
    def closed(self) -> bool:
        """Whether it was closed, or belongs to the process that this one was forked from."""
        return self._closed or os.getpid() != self._process

    def members(self) -> tuple[MemberStatus, ...]:
        """The live members of the swarm as this peer sees them, itself included; ``in_epoch`` tells who takes part."""

        async def members() -> tuple[MemberStatus, ...]:
            return self._peer.members()

        return self._call(members())

    def wait_for_members(self, count: int, timeout: float | None = None) -> tuple[MemberStatus, ...]:
        """Wait until ``count`` peers (this one included) take part in rounds; :class:`WaitTimeout` if they do not."""
        return self._call(self._peer.wait_for_members(count, timeout))

    def status(self) -> StatusReport:
        """What this peer knows and does now."""
        return self._call(self._peer.status())

    # -- collectives -------------------------------------------------------------------------------

    def all_reduce(
        self,
        tensors: Tensor | Sequence[Tensor],
        *,
        op: ReduceOp = "mean",
        weight: float = 1.0,
        aggregation: Aggregation | RuleName = "mean",
    ) -> RoundResult:
        """Reduce ``tensors`` over all members, in place; see :meth:`Peer.all_reduce`."""
        work = self._peer.all_reduce(tensors, op=op, weight=weight, aggregation=aggregation)
        return self._round(work, lambda result: result)

    def broadcast(self, tensors: Tensor | Sequence[Tensor], *, root: PeerId) -> RoundResult:
        """Copy the tensors of ``root`` into those of all members, bit by bit; see :meth:`Peer.broadcast`."""
        return self._round(self._peer.broadcast(tensors, root=root), lambda result: result)

    def all_gather(self, tensors: Tensor | Sequence[Tensor]) -> Gathered:
        """Every member's tensors, by member; see :meth:`Peer.all_gather`."""
        return self._round(self._peer.all_gather(tensors), lambda gathered: gathered.result)

    def barrier(self) -> RoundResult:
        """Wait until all members are here."""
        return self._round(self._peer.barrier(), lambda result: result)

    def _round(self, work: Coroutine[Any, Any, T], result_of: Callable[[T], RoundResult]) -> T:
        """A round that is none of the training's, which must hear if this peer is no member any more."""
        with self._thread.interrupts.guard():
            try:
                outcome = self._call(work)
            except Dropped:
                self._history.restart()
                if self._training is not None:
                    self._training.dropped()
                raise
            except (RoundRejected, SchemaMismatch):
                self._history.rejected()
                raise
            except Withdrawn:
                self._history.withdrawn(self._node)
                if self._training is not None:
                    self._training.stepped_out()
                raise
            self._history.decided(result_of(outcome).round)
            return outcome

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            self._check_open()
        except Closed:
            work.close()
            raise
        return self._thread.call(work)

    # -- training ----------------------------------------------------------------------------------

    def optimizer(
        self,
        optimizer: torch.optim.Optimizer,
        model: nn.Module,
        *,
        aggregation: Aggregation | RuleName = "mean",
    ) -> SwarmOptimizer:
        """``optimizer`` with a round of the swarm before every step; ``model`` holds all parameters that it steps.

        All members end every step with the same bytes in model and optimizer.  They start with the state of the member
        that is there first (the others need not be seeded alike, but those that are start at once); who comes later
        gets the state from the members.  Load weights of your own before this call.  With ``state_dir``, the first
        optimizer goes on from the newest checkpoint there, before the first batch.

        aggregation: what stands in the place of the mean of gradients (see :meth:`Peer.all_reduce`), the same on all
        members; then every member's learning rate and the like count in a vote, of which the median is taken.

        One model is trained at a time: a second call begins anew, with what the swarm then holds.  Raises
        :class:`ConfigError` for optimizers that cannot be used in a swarm.
        """
        if isinstance(optimizer, SwarmOptimizer):
            raise ConfigError("the optimizer belongs to a swarm already: pass the one that it wraps")
        self._check_open()
        training = PlainTraining(
            model,
            optimizer,
            collective=self._rounds,
            state_source=self._host.occupy(self._progress),
            store=self._host.state,
            seen=lambda: self._history.seen,
            guard=self._thread.interrupts.guard,
            quorum=self._node.options.min_peers,
            upkeep=self._host.durable.upkeep("", "plain"),
            aggregation=Aggregation.of(aggregation),
        )
        if self._share is not None:
            training.attach(self._share)
        if self._training is not None:
            self._training.close(
                "swarm.optimizer() was called again, and this optimizer is not used any more: put all that is trained "
                "together into one nn.Module"
            )
        self._training = training
        return SwarmOptimizer(optimizer, training)

    def dataloader(
        self,
        dataset: SizedDataset,
        batch_size: int = 1,
        *,
        shuffle: bool = True,
        seed: int = 0,
        collate_fn: Collate | None = None,
    ) -> SwarmLoader:
        """This peer's share of ``dataset``, which is the same on all peers, as are batch_size, shuffle and seed.

        batch_size: samples per peer and step.  seed: of the order of the samples, which is another one in every pass.
        collate_fn: list of samples -> batch; by default torch's.
        """
        self._check_open()
        try:
            total = len(dataset)
        except TypeError:
            raise ConfigError(
                "the data set has no length: use a map-style one, or shard it yourself and call "
                "optimizer.step(weight=len(batch)) without a loader"
            ) from None
        share = Share(total, batch_size, seed, shuffle)
        if self._training is not None:
            self._training.attach(share)
        self._share = share
        return SwarmLoader(self._begun_training, dataset, batch_size, collate_fn=collate_fn)

    def _begun_training(self) -> PlainTraining:
        if self._training is None:
            raise RuntimeError("swarm.optimizer(optimizer, model) comes before the first use of the loader")
        return self._training

    def _progress(self) -> Progress:
        training = self._training
        if training is None:
            return Progress("joining")
        cursor = training.cursor
        return Progress(
            "training" if training.established else "joining",
            step=cursor.step,
            pass_number=cursor.pass_number,
            samples=cursor.samples,
        )

    # -- the end -----------------------------------------------------------------------------------

    def close(self, *, linger: float = LINGER) -> None:
        """Leave the swarm: the others go on at once.  May be called twice; the end of the program calls it.

        While a newcomer still fetches this peer's state, it goes on with rounds for up to ``linger`` seconds.
        """
        if self.closed:
            return
        self._closed = True
        training = self._training
        try:
            if training is not None:
                self._linger(training, linger)
        finally:
            try:
                if training is not None:
                    training.close("the swarm is closed")
                self._thread.call(self._peer.leave())
            finally:
                self._thread.stop()

    def _linger(self, training: PlainTraining, seconds: float) -> None:
        until = time.monotonic() + seconds
        try:
            while training.needed and (left := until - time.monotonic()) > 0:
                self._rounds.patience = left
                training.idle()
        except LeptonError as error:
            _log.info("a newcomer may not have got this peer's state", why=str(error))

    def _check_open(self) -> None:
        if self.closed:
            raise Closed("the swarm is closed: call init_distributed() again")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(linger=LINGER if error is None else 0.0)
