"""What a peer plugs into the control server: one small protocol for each service.

Handlers get values that were checked (see ``wire_*``) and return values.  A :class:`LeptonError` that they
raise reaches the caller as the same class with the same text; anything else is logged and becomes INTERNAL.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from lepton_p2p.credentials.bearer import Bearer
from lepton_p2p.credentials.enrolment import Request
from lepton_p2p.identity import PeerId
from lepton_p2p.membership.messages import Packet
from lepton_p2p.rounds.messages import RoundMessage
from lepton_p2p.transport.links.link import Purpose
from lepton_p2p.transport.links.tickets import Ticket
from lepton_p2p.transport.values import (
    JobDocument,
    Manifest,
    MemberStatus,
    OfferReply,
    ResultInfo,
    StatusReport,
    SwarmEvent,
)
from lepton_p2p.transport.wire_credentials import Enrolled


class MembershipHandler(Protocol):
    async def deliver(self, packet: Packet) -> None:
        """Take one packet; its answers are packets of their own."""


class RoundsHandler(Protocol):
    async def deliver(self, message: RoundMessage) -> None:
        """Take one message; its answers are messages of their own."""


class LinksHandler(Protocol):
    async def open(self, remote: PeerId | None, purpose: Purpose, share: bytes) -> Ticket:
        """A ticket for one link from ``remote`` (None: a client that is not a member; FETCH only).

        ``share``: its half of the link's keys, see ``LinkHub.issue_ticket``.
        """


class StateHandler(Protocol):
    async def manifest(self, kind: str, round: int) -> Manifest:
        """Describe the state ``kind`` after ``round``; ``StateLost`` if it is not kept here."""

    async def result(self, round: int) -> ResultInfo:
        """Describe the result of ``round``; ``StateLost`` if it is not kept here."""


class JobsHandler(Protocol):
    async def get(self, digest: str) -> JobDocument:
        """The job that this peer trains; ``JobMismatch`` if ``digest`` is another's, ``JobError`` if there is none."""

    async def offer(self, job: JobDocument) -> OfferReply:
        """Take a job from another peer, or say why not."""


class SwarmHandler(Protocol):
    async def status(self) -> StatusReport:
        """What this peer knows and does now."""

    async def members(self) -> tuple[MemberStatus, ...]:
        """Everyone in this peer's view."""

    async def submit(self, job: JobDocument) -> OfferReply:
        """Take a job from a client, or say why not."""

    def events(self) -> AsyncIterator[SwarmEvent]:
        """What happens from now on; closed (``aclose``) when the client is gone, if it is a generator."""

    async def weights(self) -> Manifest:
        """Describe the current parameters; the bytes are then served over FETCH links."""


class CredentialsHandler(Protocol):
    async def enrol(self, request: Request, asker: Bearer) -> Enrolled:
        """Certify the key of ``request``, or say who can; ``CredentialsRefused`` if ``asker`` has no right to it."""

    async def exchange(self, statements: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """Take revocations (not verified yet), and give all that are known here."""

    async def show(self, processes: tuple[PeerId, ...]) -> tuple[tuple[bytes, ...], ...]:
        """The certificates (DER) of those of ``processes`` that are known here."""


@dataclass(frozen=True, slots=True)
class Handlers:
    """What a server offers; a service without a handler is not offered (UNIMPLEMENTED)."""

    membership: MembershipHandler | None = None
    rounds: RoundsHandler | None = None
    links: LinksHandler | None = None
    state: StateHandler | None = None
    jobs: JobsHandler | None = None
    swarm: SwarmHandler | None = None
    credentials: CredentialsHandler | None = None
