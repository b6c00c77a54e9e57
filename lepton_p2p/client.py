"""The async client: look at a swarm, give it a job, take its weights; without being a member."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from lepton_p2p.credentials.certificates import make_process
from lepton_p2p.credentials.folder import KeysFolder
from lepton_p2p.errors import Closed, JobMismatch, SwarmUnreachable
from lepton_p2p.identity import PeerInfo, join_address, split_address
from lepton_p2p.transport.channels import Channels
from lepton_p2p.transport.links.hub import LinkHub
from lepton_p2p.transport.links.link import Link, Purpose
from lepton_p2p.transport.security import Security
from lepton_p2p.transport.values import (
    JobDocument,
    Manifest,
    MemberStatus,
    Phase,
    StatusReport,
    SwarmEvent,
)

if TYPE_CHECKING:
    import torch

    from lepton_p2p.jobs import Job
    from lepton_p2p.training.assembler import Assembler

__all__ = ["Client", "MemberStatus", "Phase", "SwarmEvent", "SwarmStatus", "connect"]

T = TypeVar("T")
SwarmStatus = StatusReport
DEFAULT_TIMEOUT = 10.0
"""Seconds that a call may take.  ``weights`` waits up to a minute for the next step boundary, and then for as long as
bytes keep coming."""
CHUNKS_UNDER_WAY = 4
"""Chunks that ``weights`` asks for at once: hides a round trip, and the time that checking takes."""
LARGEST_WEIGHTS = 64 << 30
"""Bytes that ``weights`` accepts unless it is told otherwise."""


def connect(
    address: str, swarm: str = "lepton", *, keys: str | Path | None = None, timeout: float = DEFAULT_TIMEOUT
) -> Client:
    """A client of the swarm that the peer at ``address`` (``HOST:PORT``) belongs to::

        async with connect("127.0.0.1:7700") as swarm:
            print((await swarm.status()).step)

    Any peer will do; the client talks to this one only.  ``keys``: the folder with this machine's credentials, for a
    swarm that has some.  ``timeout``: seconds for each call.  Nothing is sent before the first call;
    :class:`AddressError` here if ``address`` does not parse, :class:`ConfigError` and :class:`CredentialsRefused` if
    the credentials are of no use.
    """
    return Client(address, swarm, keys=keys, timeout=timeout)


class Client:
    """See :func:`connect`.  Every call raises

    :class:`AddressError` (no such host), :class:`SwarmUnreachable` (nobody answers), :class:`WrongSwarm`,
    :class:`ProtocolMismatch`, :class:`CredentialsRefused`, or :class:`Closed` after the end of the ``async with``.
    """

    def __init__(
        self,
        address: str,
        swarm: str,
        *,
        keys: str | Path | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        sealed: bool = False,
    ) -> None:
        host, port = split_address(address)
        self._security = None if keys is None else Security(make_process(KeysFolder(Path(keys)).valid_node()[0]))
        self.address = join_address(host, port)
        self._host = host
        self._swarm = swarm
        self._sealed = sealed or self._security is not None
        self._timeout = timeout
        self._open: Channels | None = None

    async def __aenter__(self) -> Self:
        self._open = Channels(swarm=self._swarm, security=self._security)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        channels, self._open = self._open, None
        if channels is not None:
            await channels.close()

    @property
    def _channels(self) -> Channels:
        if self._open is None:
            raise Closed("the client is not open: use it inside of `async with connect(...)`")
        return self._open

    async def _explained(self, call: Awaitable[T]) -> T:
        """The result of ``call``; if nobody answers for want of credentials, :class:`CredentialsRefused` says so."""
        try:
            return await call
        except SwarmUnreachable:
            diagnosis = await self._channels.diagnose(self.address, timeout=self._timeout)
            if diagnosis is not None:
                raise diagnosis from None
            raise

    async def status(self) -> SwarmStatus:
        """What the peer knows and does now."""
        return await self._explained(self._channels.status(self.address, timeout=self._timeout))

    async def members(self) -> tuple[MemberStatus, ...]:
        """Everyone in the peer's view, the dead and the gone included while they are remembered."""
        return await self._explained(self._channels.members(self.address, timeout=self._timeout))

    async def submit(self, job: Job) -> None:
        """Give the swarm a job; :class:`JobMismatch` says why it does not take it."""
        document = JobDocument(job.to_json().encode(), job.digest)
        reply = await self._explained(self._channels.submit(self.address, document, timeout=self._timeout))
        if not reply.accepted:
            raise JobMismatch(f"the swarm does not take job {job.name}: {reply.reason}")

    def events(self) -> AsyncIterator[SwarmEvent]:
        """What happens from now on; ends when the peer ends it, raises when it is lost."""
        return self._channels.events(self.address)

    async def weights(self, *, max_bytes: int = LARGEST_WEIGHTS) -> dict[str, torch.Tensor]:
        """The parameters and buffers, by their names in the model's ``state_dict``, on the CPU.

        Every chunk is checked against the manifest, and that against its digest.  :class:`IntegrityError` if something
        does not fit or the whole is above ``max_bytes``; :class:`SwarmUnreachable` if the peer dies meanwhile.
        """
        from lepton_p2p.runtime.manifests import from_wire  # these import torch: status and submit do without
        from lepton_p2p.training.assembler import Assembler

        report = await self.status()
        manifest = await self._channels.weights(self.address)
        assembler = Assembler(from_wire(manifest), max_bytes=max_bytes)
        # Never started, so it listens nowhere: it only opens links.
        hub = LinkHub(None, host="127.0.0.1", swarm=self._swarm, sealed=self._sealed)
        try:
            link = await self._open_link(hub, report.peer)
            await _fill(assembler, link, manifest)
        finally:
            await hub.close()
        return {
            name.partition(".")[2]: tensor.clone()  # of its own memory, so that keeping one does not keep all
            for name, tensor in assembler.snapshot().tensors().items()
            if name.startswith(("param.", "buffer."))
        }

    async def _open_link(self, hub: LinkHub, remote: PeerInfo) -> Link:
        """A link to the peer's data port, which is on the host of its control plane."""
        who = PeerInfo(remote.id, self.address)  # where it is reached from here
        share = hub.propose()
        ticket = await self._channels.open_link(
            who, Purpose.FETCH, share=b"" if share is None else share.public, timeout=self._timeout
        )
        return await hub.open(remote.id, self._host, ticket, Purpose.FETCH, share)


async def _fill(assembler: Assembler, link: Link, manifest: Manifest) -> None:
    """Fetch every chunk straight into its place and check it there, a few at a time: one waits, one is checked."""
    from lepton_p2p.collectives.fetch import Fetcher  # imports torch, as above

    fetcher = Fetcher(link)
    missing = iter(assembler.missing)

    async def fetch_some() -> None:
        for index in missing:
            offset, _ = assembler.manifest.span(index)
            await fetcher.fetch_range(manifest.kind, manifest.round, offset, assembler.buffer(index))
            # A thread: sha256 of 1 MiB is half a millisecond that the loop would owe to everybody else.
            await asyncio.to_thread(assembler.verify, index)

    tasks = [asyncio.create_task(fetch_some()) for _ in range(CHUNKS_UNDER_WAY)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
