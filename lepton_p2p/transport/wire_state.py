"""Manifests, results, jobs and tickets as protobuf (``state.proto``, ``jobs.proto``, ``links.proto``) and back."""

from __future__ import annotations

import math
import re

from lepton_p2p.proto.lepton.v1 import jobs_pb2, links_pb2
from lepton_p2p.proto.lepton.v1 import state_pb2 as pb
from lepton_p2p.rounds.records import MAX_RECORD
from lepton_p2p.transport.links.keys import SHARE_BYTES
from lepton_p2p.transport.links.purpose import Purpose
from lepton_p2p.transport.links.tickets import TOKEN_BYTES, Ticket
from lepton_p2p.transport.values import (
    JobDocument,
    Manifest,
    OfferReply,
    ResultInfo,
    TensorSpec,
)
from lepton_p2p.transport.wire_common import check_counter, check_ids, check_size, check_text, clip

MAX_TENSORS = 100_000
MAX_DIMENSIONS = 16
MAX_TENSOR_NAME = 512
MAX_STATE_BYTES = 2**46
"""64 TiB: far above any model, far below where sums of sizes could overflow."""
MAX_CHUNK_BYTES = 64 * 1024 * 1024
MAX_META_BYTES = 1024 * 1024
MAX_JOB_BYTES = 1024 * 1024
MAX_KIND = 64
SHA256_BYTES = 32

_SHA256_HEX = re.compile(r"[0-9a-f]{64}")
ITEM_BYTES = {
    **dict.fromkeys(("bool", "uint8", "int8", "float8_e4m3fn", "float8_e5m2"), 1),
    **dict.fromkeys(("int16", "uint16", "float16", "bfloat16"), 2),
    **dict.fromkeys(("int32", "uint32", "float32"), 4),
    **dict.fromkeys(("int64", "uint64", "float64", "complex64"), 8),
    "complex128": 16,
}
"""Bytes of one element, by torch's name of the dtype: nothing else can be in a manifest."""

_PURPOSE_TO_WIRE = {
    Purpose.RING: links_pb2.LINK_PURPOSE_RING,
    Purpose.FETCH: links_pb2.LINK_PURPOSE_FETCH,
    Purpose.PUSH: links_pb2.LINK_PURPOSE_PUSH,
}
_PURPOSE_FROM_WIRE: dict[int, Purpose] = {wire: purpose for purpose, wire in _PURPOSE_TO_WIRE.items()}


def manifest_to_wire(manifest: Manifest) -> pb.ManifestReply:
    return pb.ManifestReply(
        kind=manifest.kind,
        round=manifest.round,
        tensors=[
            pb.TensorSpec(name=spec.name, dtype=spec.dtype, shape=spec.shape, offset=spec.offset, nbytes=spec.nbytes)
            for spec in manifest.tensors
        ],
        total_bytes=manifest.total_bytes,
        chunk_bytes=manifest.chunk_bytes,
        chunk_digests=b"".join(manifest.chunk_digests),
        meta_json=manifest.meta_json,
        digest=manifest.digest,
    )


def manifest_from_wire(manifest: pb.ManifestReply) -> Manifest:
    """The manifest from the network: sizes agree with shapes, tensors lie inside, digests are complete.

    ``ValueError`` otherwise.  Whether the state is what the caller wants (names, total size) is the caller's to
    check before it allocates.
    """
    check_size(manifest.tensors, "tensors", MAX_TENSORS)
    check_size(manifest.meta_json, "bytes of options", MAX_META_BYTES)
    total = check_counter(manifest.total_bytes, "a state's size", MAX_STATE_BYTES + 1)
    chunk = manifest.chunk_bytes
    if not 1 <= chunk <= MAX_CHUNK_BYTES:
        raise ValueError(f"chunks have 1 to {MAX_CHUNK_BYTES} bytes, not {chunk}")
    digests = manifest.chunk_digests
    if len(digests) != SHA256_BYTES * -(-total // chunk) or len(manifest.digest) != SHA256_BYTES:
        raise ValueError(f"{len(digests)} bytes of digests do not describe {total} bytes in chunks of {chunk}")
    return Manifest(
        kind=check_kind(manifest.kind),
        round=check_counter(manifest.round, "a round"),
        tensors=tuple(_tensor_from_wire(spec, total) for spec in manifest.tensors),
        total_bytes=total,
        chunk_bytes=chunk,
        chunk_digests=tuple(digests[i : i + SHA256_BYTES] for i in range(0, len(digests), SHA256_BYTES)),
        meta_json=manifest.meta_json,
        digest=manifest.digest,
    )


def check_kind(kind: str) -> str:
    """``kind`` if it is a word that can name a kind of state."""
    if not kind:
        raise ValueError("a kind of state has a name")
    return check_text(kind, "a kind of state", MAX_KIND)


def _tensor_from_wire(spec: pb.TensorSpec, total: int) -> TensorSpec:
    name = check_text(spec.name, "a tensor's name", MAX_TENSOR_NAME)
    check_size(spec.shape, "dimensions", MAX_DIMENSIONS)
    shape = tuple(check_counter(size, "a dimension", MAX_STATE_BYTES) for size in spec.shape)
    item = ITEM_BYTES.get(spec.dtype)
    if item is None:
        raise ValueError(f"tensor {name!r} has the unknown dtype {spec.dtype[:32]!r}")
    if spec.nbytes != item * math.prod(shape):
        raise ValueError(f"tensor {name!r} announces {spec.nbytes} bytes, which its shape and dtype do not give")
    if spec.offset + spec.nbytes > total:
        raise ValueError(f"tensor {name!r} reaches past the end of the state")
    return TensorSpec(name, spec.dtype, shape, spec.offset, spec.nbytes)


def result_to_wire(result: ResultInfo) -> pb.ResultInfo:
    return pb.ResultInfo(
        round=result.round,
        epoch_number=result.epoch_number,
        epoch_tag=result.epoch_tag,
        members=result.members,
        records=result.records,
        digest=result.digest,
        nbytes=result.nbytes,
        attempts=result.attempts,
    )


def result_from_wire(result: pb.ResultInfo) -> ResultInfo:
    """The description of a result from the network: one bounded record for each member; ``ValueError`` otherwise."""
    members = check_ids(result.members)
    if not members or len(result.records) != len(members):
        raise ValueError(f"a result of {len(members)} members with {len(result.records)} records")
    for record in result.records:
        check_size(record, "bytes of a record", MAX_RECORD)
    return ResultInfo(
        round=check_counter(result.round, "a round"),
        epoch_number=check_counter(result.epoch_number, "an epoch's number"),
        epoch_tag=result.epoch_tag,
        members=members,
        records=tuple(result.records),
        digest=result.digest,
        nbytes=check_counter(result.nbytes, "a result's size", MAX_STATE_BYTES + 1),
        attempts=result.attempts,
    )


def job_to_wire(job: JobDocument) -> jobs_pb2.Job:
    """``ValueError`` if the job is larger than ``MAX_JOB_BYTES``: the receiver would refuse it."""
    check_size(job.json, "bytes of a job", MAX_JOB_BYTES)
    return jobs_pb2.Job(json=job.json, digest=job.digest)


def job_from_wire(job: jobs_pb2.Job) -> JobDocument:
    """A job of bounded size with a well-formed digest; its contents are not looked at."""
    check_size(job.json, "bytes of a job", MAX_JOB_BYTES)
    if not job.json:
        raise ValueError("a job is not empty")
    return JobDocument(job.json, check_sha256_hex(job.digest))


def check_sha256_hex(digest: str) -> str:
    if not _SHA256_HEX.fullmatch(digest):
        raise ValueError(f"a digest is 64 lowercase hex digits, not {digest[:80]!r}")
    return digest


def offer_reply_to_wire(reply: OfferReply) -> jobs_pb2.OfferReply:
    return jobs_pb2.OfferReply(accepted=reply.accepted, reason=clip(reply.reason))


def offer_reply_from_wire(reply: jobs_pb2.OfferReply) -> OfferReply:
    return OfferReply(reply.accepted, check_text(reply.reason, "a reason"))


def purpose_to_wire(purpose: Purpose) -> links_pb2.LinkPurpose.ValueType:
    return _PURPOSE_TO_WIRE[purpose]


def purpose_from_wire(value: int) -> Purpose:
    purpose = _PURPOSE_FROM_WIRE.get(value)
    if purpose is None:
        raise ValueError(f"{value} is no purpose of a link")
    return purpose


def ticket_to_wire(ticket: Ticket) -> links_pb2.Ticket:
    return links_pb2.Ticket(port=ticket.port, token=ticket.token, share=ticket.share)


def ticket_from_wire(ticket: links_pb2.Ticket) -> Ticket:
    if not 1 <= ticket.port <= 65535:
        raise ValueError(f"{ticket.port} is no port")
    if len(ticket.token) != TOKEN_BYTES:
        raise ValueError(f"a token has {TOKEN_BYTES} bytes, not {len(ticket.token)}")
    return Ticket(ticket.port, ticket.token, share_from_wire(ticket.share))


def share_from_wire(share: bytes) -> bytes:
    """One side's half of the keys of a link, or nothing."""
    if share and len(share) != SHARE_BYTES:
        raise ValueError(f"a share of a link's keys has {SHARE_BYTES} bytes, not {len(share)}")
    return share
