"""Enrolment and revocations as protobuf (``credentials.proto``) and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lepton_p2p.credentials.bearer import MAX_CERTIFICATE, MAX_CHAIN, from_der, to_der
from lepton_p2p.credentials.certificates import Certificate
from lepton_p2p.credentials.revocations import MAX_STATEMENT, MAX_STATEMENTS
from lepton_p2p.identity import PeerId
from lepton_p2p.proto.lepton.v1 import credentials_pb2 as pb
from lepton_p2p.transport.wire_common import check_address, check_ids, check_size

MAX_ISSUERS = 16
MAX_CHAINS = 500
"""Processes whose certificates are shown in one answer: half a megabyte."""


@dataclass(frozen=True, slots=True)
class Enrolled:
    """The answer to a request: a ``chain``, or the addresses of ``issuers`` that can give one."""

    chain: tuple[Certificate, ...]
    issuers: tuple[str, ...] = ()


def enrolled_to_wire(answer: Enrolled) -> pb.EnrolReply:
    return pb.EnrolReply(chain=to_der(answer.chain), issuers=answer.issuers[:MAX_ISSUERS])


def enrolled_from_wire(reply: pb.EnrolReply) -> Enrolled:
    check_size(reply.issuers, "issuers", MAX_ISSUERS)
    return Enrolled(from_der(reply.chain), tuple(check_address(address) for address in reply.issuers))


def revocations_to_wire(statements: Sequence[bytes]) -> pb.Revocations:
    return pb.Revocations(statements=statements)


def revocations_from_wire(wire: pb.Revocations) -> tuple[bytes, ...]:
    """Not verified yet: whoever keeps them does that."""
    check_size(wire.statements, "revocations", MAX_STATEMENTS)
    for statement in wire.statements:
        if len(statement) > MAX_STATEMENT:
            raise ValueError(f"a revocation has at most {MAX_STATEMENT} bytes, this one {len(statement)}")
    return tuple(wire.statements)


def show_request_from_wire(request: pb.ShowRequest) -> tuple[PeerId, ...]:
    check_size(request.processes, "processes", MAX_CHAINS)
    return check_ids(request.processes)


def shown_to_wire(chains: Iterable[Sequence[bytes]]) -> pb.Shown:
    return pb.Shown(chains=[pb.Chain(certificates=chain) for chain in chains])


def shown_from_wire(shown: pb.Shown) -> tuple[tuple[bytes, ...], ...]:
    """Not verified yet: whoever keeps them does that."""
    check_size(shown.chains, "chains", MAX_CHAINS)
    for chain in shown.chains:
        check_size(chain.certificates, "certificates of a chain", MAX_CHAIN)
        if any(len(row) > MAX_CERTIFICATE for row in chain.certificates):
            raise ValueError(f"a certificate has at most {MAX_CERTIFICATE} bytes")
    return tuple(tuple(chain.certificates) for chain in shown.chains)
