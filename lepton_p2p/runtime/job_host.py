"""The life of a job in a peer: where it comes from, the thread that trains it, how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

import structlog

from lepton_p2p.errors import Closed, JobError, JobMismatch, LeptonError
from lepton_p2p.identity import short
from lepton_p2p.jobs import Job, parse_job
from lepton_p2p.models import Built, build
from lepton_p2p.runtime.bridge import Bridge, BridgedCollective, BridgedStateSource
from lepton_p2p.runtime.durable import Durable
from lepton_p2p.runtime.node import Node
from lepton_p2p.runtime.pair_exchange import LinkExchange
from lepton_p2p.runtime.served_state import ServedState
from lepton_p2p.training.collective import StateSource
from lepton_p2p.training.loop import Progress, Trainer
from lepton_p2p.training.mailbox import Images
from lepton_p2p.training.snapshots import Snapshot
from lepton_p2p.transport.values import JobDocument, OfferReply

_log = structlog.get_logger(__name__)
_ASK_AGAIN = 1.0
"""Seconds between two rounds of asking the swarm for a job, if nobody offers one and nobody appears before."""
_STOP_SECONDS = 1.0
"""How long a leaving peer lets its round finish (then the others run it again), and its last checkpoint."""
_PROGRAM_SECONDS = 10.0
"""How long the end of a program waits for its last checkpoint: nobody waits for a program that has left."""


class JobHost:
    """Holds at most one job.  ``job``, ``file``: what this peer was started with (``file``: its Python file)."""

    def __init__(self, node: Node, *, job: Job | None, file: Path | None) -> None:
        self._node = node
        self._bridge = Bridge(asyncio.get_running_loop())
        self.state = ServedState(self._bridge, node.fetch_server)
        self.exchange = LinkExchange(node)
        self.durable = Durable(node, self._bridge)
        self._given, self._file = job, file
        self._offered: asyncio.Future[tuple[Job, bool]] = asyncio.get_running_loop().create_future()
        self._news = asyncio.Event()
        """Somebody appeared who may have a job, or one was offered."""
        self._job: Job | None = None
        self._trainer: Trainer | None = None
        self._thread: threading.Thread | None = None
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._done.add_done_callback(lambda future: future.cancelled() or future.exception())
        self._wanted_again = threading.Event()
        self._stopping = False
        self._joining = False
        self._seen_step = -1
        node.arrivals.on_early = self._wanted_again.set
        self._program: Callable[[], Progress] | None = None
        node.on_met.append(self._news.set)

    @property
    def job(self) -> Job | None:
        """What is trained here; None while nothing is."""
        return self._job

    @property
    def document(self) -> JobDocument | None:
        """The job as it travels."""
        return None if self._job is None else JobDocument(self._job.to_json().encode(), self._job.digest)

    @property
    def progress(self) -> Progress | None:
        """Where training stands; None before it begins."""
        if self._program is not None:
            return self._program()
        return None if self._trainer is None else self._trainer.progress

    @property
    def waiting(self) -> bool:
        """Whether the peer is on its way into a job (looking for one, or building it)."""
        return self._joining and self._trainer is None

    def occupy(self, progress: Callable[[], Progress]) -> StateSource:
        """A program trains here in a loop of its own: jobs are refused; ``progress`` (any thread) tells how far it is.

        It keeps snapshots for joiners in ``state``; the returned source is where it gets its own.
        """
        self._program = progress
        return BridgedStateSource(self._node, self._bridge)

    async def run(self) -> None:
        """Find the job, train it, return when the schedule is complete; the peer stays available after that.

        Raises what makes training impossible here (:class:`JobMismatch`, :class:`JobError`, ...).
        """
        self._joining = True
        self._node.tasks.spawn(self._live(), "the job's life")
        assert self._node.failed is not None
        await asyncio.wait((self._done, self._node.failed), return_when=asyncio.FIRST_COMPLETED)
        if self._node.failed.done():
            self._node.failed.result()
        await self._done

    async def offer(self, document: JobDocument, *, from_client: bool) -> OfferReply:
        """Take a job from another peer or a client; refused if there is another one already."""
        try:
            job = _read(document, source="the offered job")
        except JobError as error:
            return OfferReply(False, str(error))
        if self._program is not None:
            return OfferReply(False, "this peer belongs to a program with a training loop of its own")
        if (held := self._held) is None:
            try:
                await asyncio.to_thread(build, job, file=self._file)
            except LeptonError as error:
                return OfferReply(False, str(error))
            # While it was built, another may have been offered.
            if (held := self._held) is None:
                self._offered.set_result((job, from_client))
                self._news.set()
                return OfferReply(True)
        same = held.digest == job.digest
        return OfferReply(same, "" if same else f"this swarm runs job {held.name} ({held.digest[:12]}) already")

    @property
    def _held(self) -> Job | None:
        """The job that this peer trains, or will: every other one is refused."""
        return self._job or self._given or (self._offered.result()[0] if self._offered.done() else None)

    async def weights(self) -> Snapshot:
        """Parameters and buffers at the next step boundary; :class:`JobError` if nothing is trained here."""
        if self._trainer is None:
            raise JobError("this peer trains nothing (yet): there are no weights")
        # In a thread, since after the training it is made at once, and copies everything.
        return await asyncio.wrap_future(await asyncio.to_thread(self._trainer.snapshot_now))

    async def stop(self) -> None:
        """Stop training: at the next boundary, or in the middle of a round if that takes too long."""
        self._stopping = True
        if self._trainer is not None:
            self._trainer.request_stop()
        self._wanted_again.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, _STOP_SECONDS)

    async def aclose(self) -> None:
        """End everything, the thread included."""
        self._stopping = True
        if self._trainer is not None:
            self._trainer.request_stop()
        self._wanted_again.set()
        self._bridge.close()
        self.exchange.close()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        await self.durable.aclose(_STOP_SECONDS if self._program is None else _PROGRAM_SECONDS)
        if not self._done.done():
            self._done.set_exception(Closed("the peer was closed before its job was done"))

    # -- where the job comes from ------------------------------------------------------------------

    async def _live(self) -> None:
        try:
            job, founding = await self._find()
            built = await asyncio.to_thread(build, job, file=self._file)
            self._job = job
            self._node.events.publish("job", f"{job.name} ({job.digest[:12]})")
            await self.durable.note_job(job)
            await self.durable.recall(job.digest)
            self._node.enter(job=job.digest, found=founding)
            self._node.tasks.spawn(self._offer_to_all(), "offer the job to the swarm")
            await self._node.gathered()
        except LeptonError as error:
            self._end(error)
        else:
            self._start(job, built, founder=self._node.founded)

    async def _find(self) -> tuple[Job, bool]:
        """The job, and whether this peer founds the epoch for it."""
        joining = bool(self._node.options.join)
        if self._given is not None:
            if joining:
                await self._compare(self._given)
            return self._given, not joining
        last = None if joining else await self.durable.last_job()
        if last is not None and not self._offered.done():
            # As if it had been offered: another one that comes meanwhile is refused.
            self._offered.set_result((last, True))
            _log.warning("going on with the job that was trained here last; --resume never forgets it", job=last.name)
        while not self._offered.done():
            self._news.clear()
            for peer in self._node.view():
                if peer != self._node.me and (job := await self._ask(peer.address)) is not None:
                    return job, False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ASK_AGAIN):
                    await self._news.wait()
        return self._offered.result()

    async def _ask(self, address: str) -> Job | None:
        try:
            document = await self._node.channels.get_job(address, timeout=self._node.options.call_timeout)
        except LeptonError:
            return None  # it has none, or does not answer: another may
        return _read(document, source=f"the job of {address}")

    async def _compare(self, given: Job) -> None:
        """Refuse early, with both sides' digests, if the swarm trains something else than this peer was given."""
        for seed in self._node.options.join:
            theirs = await self._ask(seed)
            if theirs is None or theirs.digest == given.digest:
                continue
            if theirs.file_digest and given.file_digest and theirs.file_digest != given.file_digest:
                raise JobMismatch(
                    f"{given.file} has digest {given.file_digest}, the swarm's {theirs.file} has "
                    f"{theirs.file_digest}: every peer needs the same file"
                )
            raise JobMismatch(
                f"the swarm at {seed} runs job {theirs.name} ({theirs.digest}), this peer was given {given.name} "
                f"({given.digest}): start it without --job to train what the swarm trains"
            )

    async def _offer_to_all(self) -> None:
        document = self.document
        assert document is not None
        for peer in self._node.view():
            if peer == self._node.me:
                continue
            try:
                reply = await self._node.channels.offer_job(peer, document)
            except LeptonError as error:
                _log.info("a peer could not be offered the job; it will ask", peer=short(peer.id), why=str(error))
                continue
            if not reply.accepted:
                _log.warning("a peer does not take the job", peer=short(peer.id), why=reply.reason)

    # -- the training thread -----------------------------------------------------------------------

    def _start(self, job: Job, built: Built, *, founder: bool) -> None:
        self.exchange.expect(Images(built.model, 0).nbytes)
        self._trainer = Trainer(
            job,
            built,
            collective=BridgedCollective(self._node, self._bridge),
            state_source=BridgedStateSource(self._node, self._bridge),
            exchange=self.exchange,
            store=self.state,
            on_progress=lambda progress: self._bridge.post(self._tell, progress),
            founder=founder,
            quorum=self._node.options.min_peers,
            upkeep=self.durable.upkeep(job.digest, job.strategy.name),
        )
        self._thread = threading.Thread(target=self._train, args=(self._trainer,), name="training", daemon=True)
        self._thread.start()

    def _train(self, trainer: Trainer) -> None:
        """The training thread: the schedule, and afterwards rounds for peers that came late."""
        work: Callable[[], Progress] = trainer.run
        while True:
            # Cleared before the work: a call for more rounds, or to stop, that comes meanwhile is not lost.
            self._wanted_again.clear()
            try:
                work()
            except BaseException as error:
                self._bridge.post(self._end, error)
                return
            if self._stopping:
                return
            self._bridge.post(self._end, None)
            self._wanted_again.wait()
            if self._stopping:
                return
            work = trainer.welcome

    def _tell(self, progress: Progress) -> None:
        if progress.step != self._seen_step and progress.loss is not None:
            self._seen_step = progress.step
            values = {
                "step": float(progress.step),
                "loss": progress.loss,
                "samples_per_second": progress.samples_per_second,
                **progress.metrics,
            }
            self._node.events.publish("step", f"step {progress.step}", values=values)
        report = progress.report if self._job is not None and self._job.strategy.name != "all_reduce" else None
        if self._job is not None and report is not None and report.result is None:
            # The agreement counts what rounds bring; what comes about without them it must be told.
            work = progress.samples // self._job.batch_size
            self._node.rounds.feed(lambda now: self._node.agreement.worked(now, work))

    def _end(self, error: BaseException | None) -> None:
        if error is not None and not self._stopping:
            self._node.fail(error)
        if self._done.done():
            return
        if error is not None:
            self._done.set_exception(error)
        else:
            self._node.events.publish("done", "training is complete")
            self._done.set_result(None)


def _read(document: JobDocument, *, source: str) -> Job:
    """The job in a document from the network; :class:`JobError` for anything else."""
    try:
        text = document.json.decode()
    except UnicodeDecodeError:
        raise JobError(f"{source} is not text") from None
    job = parse_job(text, source=source)
    if job.digest != document.digest:
        raise JobError(f"{source} does not have the digest that came with it")
    return job
