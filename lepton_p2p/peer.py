"""A peer as programs use it: ``async with Peer(...) as peer``."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Literal, Self, TypeVar

import torch
from torch import Tensor

from lepton_p2p.collectives.operations import Op
from lepton_p2p.collectives.packing import Packed, in_place
from lepton_p2p.collectives.pending import Finished
from lepton_p2p.durability import Durability
from lepton_p2p.errors import Closed, ConfigError, RoundRejected, WaitTimeout
from lepton_p2p.identity import PeerId, short
from lepton_p2p.jobs import Job
from lepton_p2p.membership import SwimConfig
from lepton_p2p.membership.messages import Status
from lepton_p2p.presets import Preset, timings, usual_preset
from lepton_p2p.rounds.aggregation import Aggregation
from lepton_p2p.rounds.config import AgreementConfig, Partitions
from lepton_p2p.rounds.patience import PatienceConfig
from lepton_p2p.rounds.result import RoundResult
from lepton_p2p.runtime.job_host import JobHost
from lepton_p2p.runtime.node import Node
from lepton_p2p.runtime.options import NodeOptions
from lepton_p2p.runtime.services import member_statuses, services, status_report
from lepton_p2p.runtime.warm_up import warm_up
from lepton_p2p.steps import Steps, finish, in_thread, in_turns
from lepton_p2p.transport.handlers import Handlers
from lepton_p2p.transport.values import MemberStatus, StatusReport, SwarmEvent

T = TypeVar("T")
ReduceOp = Literal["mean", "sum", "max", "min"]
RuleName = Literal["mean", "clip", "trimmed_mean", "median", "centered_clip"]
_INLINE_BYTES = 1 << 20
"""Up to this size copying takes less than a millisecond and is done on the loop, above it in a thread."""
_LEAVE_SECONDS = 1.5


@dataclass(frozen=True, slots=True)
class Gathered:
    """What :meth:`Peer.all_gather` returns: every member's tensors, in ring order, and the round's result."""

    tensors: MappingProxyType[PeerId, tuple[Tensor, ...]]
    result: RoundResult


class Peer:
    """One member of a swarm.

    listen: ``host:port`` to be reached at (port 0: any free one).  join: addresses of peers of the swarm, tried
    for ever; without any, this peer starts a swarm.  preset: ``local``, ``lan`` or ``wan``, the timings of
    failure detection (swim, patience, agreement override parts of it); by default ``local`` on a loopback address and
    ``lan`` on others, as on the command line.  swarm: id that all peers must name.
    insecure: allow a non-loopback address without credentials.  advertise: the address that others should call,
    if it is not ``listen``.  data_port: of the links (0: any free one).  state_dir: where checkpoints are kept; the
    last known members, to find the swarm again; and this machine's credentials, in its folder ``keys``.  keys: the
    folder of the credentials, if it is another one.  token: a join token, for a machine that has none yet.
    durability: how often checkpoints are written, how many are kept, what is resumed.  partitions: what a side of a
    split swarm does, ``continue`` or ``majority``, the same on all peers.  min_peers: how many must be there before the
    training starts.  share_memory: give tensors to peers on this machine through memory that both
    share, not through sockets.  enters: whether it takes part in rounds at once.  A peer that joins with
    ``enters=False`` does so from its first collective (or ``wait_for_members``) on, and nobody waits for it before.
    recalls: whether a program's own training loop goes on from its checkpoint.

    ``trains=False`` (default): the peer takes part in the collectives that the program calls.  ``trains=True``: it
    trains a job with :meth:`run_job`; ``job`` (``job_file``: its Python file) says which, otherwise the swarm does.
    """

    def __init__(
        self,
        *,
        listen: str = "127.0.0.1:0",
        join: Sequence[str] = (),
        preset: Preset | None = None,
        swarm: str = "lepton",
        insecure: bool = False,
        advertise: str | None = None,
        data_port: int = 0,
        state_dir: str | Path | None = None,
        keys: str | Path | None = None,
        token: str | None = None,
        durability: Durability | None = None,
        partitions: Partitions = "continue",
        min_peers: int = 1,
        share_memory: bool = True,
        enters: bool = True,
        recalls: bool = False,
        trains: bool = False,
        job: Job | None = None,
        job_file: str | Path | None = None,
        swim: SwimConfig | None = None,
        patience: PatienceConfig | None = None,
        agreement: AgreementConfig | None = None,
    ) -> None:
        if isinstance(join, str):
            raise ConfigError(f"join takes a list of addresses: write join=[{join!r}]")
        usual = timings(preset or usual_preset(listen))
        self._options = NodeOptions(
            listen=listen,
            join=tuple(join),
            swarm=swarm,
            insecure=insecure,
            advertise=advertise,
            data_port=data_port,
            state_dir=None if state_dir is None else Path(state_dir),
            keys=None if keys is None else Path(keys),
            token=token,
            durability=durability or Durability(),
            partitions=partitions,
            min_peers=min_peers,
            share_memory=share_memory,
            swim=swim or usual.swim,
            patience=patience or usual.patience,
            agreement=agreement or usual.agreement,
        )
        self._enters = enters or not join
        self._entered = False
        self._recalls = recalls
        self._trains = trains or job is not None
        self._job = job
        self._job_file = None if job_file is None else Path(job_file)
        self._node: Node | None = None
        self._host: JobHost | None = None
        self._closed = self._under_way = False
        self._started = time.monotonic()

    # -- life --------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Listen and meet the swarm; see ``Node.start`` for what is raised."""
        if self._node is not None:
            raise Closed("a peer is started once: make a new one")
        if self._trains:
            await asyncio.to_thread(warm_up)
        node = Node(self._options)
        self._started = time.monotonic()
        await node.start(self._services)
        self._node = node
        if self._recalls and self._host is not None:
            try:
                await self._host.durable.recall("")
            except BaseException:
                await self.leave()
                raise
        if self._enters and not self._trains:
            self.enter()
        return self

    def enter(self) -> None:
        """Take part in rounds from now on: the others wait for this peer in each of them.  May be called twice."""
        node = self._running
        if not self._entered and not self._trains:
            self._entered = True
            node.enter(job="", found=not self._options.join)

    def _services(self, node: Node) -> Handlers:
        self._host = JobHost(node, job=self._job, file=self._job_file)
        return services(node, self._host)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.leave()

    async def leave(self) -> None:
        """Announce the leave, hand back the round, stop; the peer is closed afterwards.  May be called twice."""
        node, host = self._node, self._host
        if node is None or host is None or self._closed:
            return
        self._closed = True
        try:
            await host.stop()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LEAVE_SECONDS):
                    await node.leave()
        finally:
            await host.aclose()
            await node.aclose()

    @property
    def parts(self) -> tuple[Node, JobHost]:
        """The running peer's inside, for faces that are built on this one."""
        node = self._running
        assert self._host is not None  # made together with the node
        return node, self._host

    @property
    def _running(self) -> Node:
        if self._node is None or self._closed:
            raise Closed("the peer is not running: use it inside of `async with Peer(...)`")
        return self._node

    # -- who ---------------------------------------------------------------------------------------

    @property
    def id(self) -> PeerId:
        """This peer's id: 32 hex digits, new with every start."""
        return self._running.me.id

    @property
    def address(self) -> str:
        """``host:port``: what another peer passes to ``join``."""
        return self._running.me.address

    def members(self) -> tuple[MemberStatus, ...]:
        """The live members of the swarm as this peer sees them, itself included; ``in_epoch`` tells who takes part."""
        return tuple(m for m in member_statuses(self._running) if m.status in (Status.ALIVE, Status.SUSPECT))

    async def wait_for_members(self, count: int, timeout: float | None = None) -> tuple[MemberStatus, ...]:
        """Wait until ``count`` peers (this one included) take part in rounds; :class:`WaitTimeout` if they do not."""
        node = self._running
        self.enter()
        try:
            async with asyncio.timeout(timeout):
                await node.unless_failed(node.rounds.wait_for_epoch(lambda epoch: len(epoch.members) >= count))
        except TimeoutError:
            epoch = node.rounds.epoch
            there = len(epoch.members) if epoch is not None else 0
            raise WaitTimeout(f"{there} of {count} members are there after {timeout:g} s") from None
        return self.members()

    async def status(self) -> StatusReport:
        """What this peer knows and does now."""
        node, host = self._running, self._host
        assert host is not None
        return status_report(node, host, time.monotonic() - self._started)

    def events(self) -> AsyncIterator[SwarmEvent]:
        """What happens from now on, until the peer is closed."""
        return self._running.events.subscribe()

    # -- collectives -------------------------------------------------------------------------------

    async def all_reduce(
        self,
        tensors: Tensor | Sequence[Tensor],
        *,
        op: ReduceOp = "mean",
        weight: float = 1.0,
        aggregation: Aggregation | RuleName = "mean",
    ) -> RoundResult:
        """Reduce ``tensors`` over all members, in place; all survivors end with the same bytes, or nobody changes.

        The same shapes and dtypes on all members (:class:`SchemaMismatch` otherwise).  mean: ``sum(weight * x) /
        sum(weight)`` of float tensors; sum, max, min also of integers.  float16 and bfloat16 are accumulated in
        float32.  A member whose tensors hold NaN or Inf counts with weight 0, is named in ``RoundResult.refused``,
        and gets the same result; if that is everyone, the result of a mean is 0.

        aggregation: what stands in the place of the mean, so that a few members that send wrong numbers do not decide
        it; a rule's name, or an ``Aggregation`` with its options, the same on all members.  Every weight above 0 then
        counts the same.  See docs/robust-aggregation.md.

        The tensors must not be changed until this returns.  Raises :class:`Dropped`, :class:`RoundRejected`,
        :class:`Closed`; ``TypeError`` for dtypes that the operation cannot take.  Cancelling changes nothing here; the
        others go on without this peer, which enters again with its next call.
        """
        if op not in ("mean", "sum", "max", "min"):
            raise ValueError(f"op is mean, sum, max or min, not {op!r}")
        tensors = _writable(tensors)
        with self._one_at_a_time():
            packed = await self._pack(tensors, Op(op), weight, Aggregation.of(aggregation))
            finished = await self._round(packed, weight=weight)
            await _work(tensors, Op(op), packed.unpacking(finished.kept.buffer, tensors))
        return finished.result

    async def broadcast(self, tensors: Tensor | Sequence[Tensor], *, root: PeerId) -> RoundResult:
        """Copy the tensors of ``root`` into those of all members, bit by bit.

        If ``root`` is lost before anybody has its bytes, :class:`RoundRejected` on all of them.
        """
        tensors = _writable(tensors)
        with self._one_at_a_time():
            packed = await self._pack(tensors, Op.COPY, 1.0)
            finished = await self._round(packed, root=root)
            if root not in finished.result.members:
                raise RoundRejected(f"{short(root)}, the root of the broadcast, is not a member (any more)")
            await _work(tensors, Op.COPY, packed.unpacking(finished.kept.buffer, tensors))
        return finished.result

    async def all_gather(self, tensors: Tensor | Sequence[Tensor]) -> Gathered:
        """Every member's tensors (same shapes and dtypes on all), by member; new tensors on the CPU."""
        tensors = _listed(tensors)
        rows: dict[PeerId, tuple[Tensor, ...]] = {}
        with self._one_at_a_time():
            packed = await self._pack(tensors, Op.GATHER, 1.0)
            finished = await self._round(packed)
            for rank, member in enumerate(finished.kept.members):
                row = tuple(torch.empty_like(tensor, device="cpu") for tensor in tensors)
                await _work(row, Op.GATHER, packed.unpacking(finished.kept.buffer, row, slot=rank))
                rows[member] = row
        return Gathered(MappingProxyType(rows), finished.result)

    async def barrier(self) -> RoundResult:
        """Wait until all members are here."""
        with self._one_at_a_time():
            packed = await self._pack([], Op.SUM, 1.0)
            return (await self._round(packed)).result

    @contextlib.contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        """Until the result is copied out: the memory in which it lies is used again for later rounds."""
        if self._under_way:
            raise RuntimeError("a collective is under way: await it before starting the next")
        self._under_way = True
        try:
            yield
        finally:
            self._under_way = False

    async def _pack(
        self, tensors: Sequence[Tensor], op: Op, weight: float, aggregation: Aggregation | None = None
    ) -> Packed:
        pool = self._running.rounds.pool
        packing = Packed.packing(tensors, op, weight=weight, pool=pool, aggregation=aggregation)
        return await _work(tensors, op, packing)

    async def _round(self, packed: Packed, *, weight: float = 1.0, root: PeerId | None = None) -> Finished:
        self.enter()
        node = self._running
        return await node.unless_failed(node.rounds.run(packed, weight=weight, root=root))

    # -- training ----------------------------------------------------------------------------------

    async def run_job(self) -> None:
        """Train what the swarm trains until the schedule is complete; the peer serves its state after that.

        Waits for a job if neither this peer nor the swarm has one.  Needs ``trains=True``.
        """
        self._running  # noqa: B018 - raises if the peer is not running
        if not self._trains:
            raise ConfigError("this peer was made for collectives: use Peer(trains=True) to run jobs")
        assert self._host is not None
        await self._host.run()


def _listed(tensors: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    listed = (tensors,) if isinstance(tensors, Tensor) else tuple(tensors)
    for tensor in listed:
        if not isinstance(tensor, Tensor):
            raise TypeError(f"a tensor or a list of tensors is wanted, not {type(tensor).__name__}")
        if tensor.is_meta:
            raise TypeError("a tensor on the meta device has no values that could travel")
    return listed


def _writable(tensors: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    """``tensors``, if the result fits in: to find out when the round is decided would be too late for the others."""
    listed = _listed(tensors)
    for tensor in listed:
        if tensor.is_inference():
            raise TypeError("an inference tensor cannot take the result: clone it")
        if any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)):
            raise TypeError("an expanded tensor, whose elements share memory, cannot take the result: clone it")
    return listed


async def _work(tensors: Sequence[Tensor], op: Op, steps: Steps[T]) -> T:
    """Do ``steps``, which read or write ``tensors``, to the end, cancelled or not: nobody may find them half done.

    On the loop, which gets its turn between the steps, if these are short: where the processor is busy, waiting for
    a thread to be scheduled costs more than small copies.  In a thread otherwise.
    """
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors) <= _INLINE_BYTES:
        return finish(steps)
    if not in_place(tensors, op):
        return await in_thread(steps)
    try:
        return await in_turns(steps)
    except asyncio.CancelledError:
        finish(steps)
        raise
