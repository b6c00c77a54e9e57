"""Manifests, results, jobs and tickets survive the wire; sizes that do not add up are refused before use."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from control_fakes import JOB, MANIFEST, RESULT
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from wire_strategies import jobs, manifests, offer_replies, results, tickets

from lepton_p2p.proto.lepton.v1 import jobs_pb2, links_pb2, state_pb2
from lepton_p2p.transport.links.link import Purpose
from lepton_p2p.transport.links.tickets import Ticket
from lepton_p2p.transport.values import JobDocument, Manifest, OfferReply, ResultInfo
from lepton_p2p.transport.wire_state import (
    job_from_wire,
    job_to_wire,
    manifest_from_wire,
    manifest_to_wire,
    offer_reply_from_wire,
    offer_reply_to_wire,
    purpose_from_wire,
    purpose_to_wire,
    result_from_wire,
    result_to_wire,
    share_from_wire,
    ticket_from_wire,
    ticket_to_wire,
)


@given(manifests())
def test_every_manifest_comes_back_as_it_went(manifest: Manifest) -> None:
    data = manifest_to_wire(manifest).SerializeToString()
    assert manifest_from_wire(state_pb2.ManifestReply.FromString(data)) == manifest


@given(results())
def test_every_result_comes_back_as_it_went(result: ResultInfo) -> None:
    data = result_to_wire(result).SerializeToString()
    assert result_from_wire(state_pb2.ResultInfo.FromString(data)) == result


@given(jobs)
def test_every_job_comes_back_as_it_went(job: JobDocument) -> None:
    assert job_from_wire(jobs_pb2.Job.FromString(job_to_wire(job).SerializeToString())) == job


@given(tickets)
def test_every_ticket_comes_back_as_it_went(ticket: Ticket) -> None:
    assert ticket_from_wire(links_pb2.Ticket.FromString(ticket_to_wire(ticket).SerializeToString())) == ticket


@given(offer_replies)
def test_every_reply_to_an_offer_comes_back_as_it_went(reply: OfferReply) -> None:
    assert offer_reply_from_wire(offer_reply_to_wire(reply)) == reply


@pytest.mark.parametrize("purpose", Purpose)
def test_every_purpose_comes_back_as_it_went(purpose: Purpose) -> None:
    assert purpose_from_wire(purpose_to_wire(purpose)) is purpose


@pytest.mark.parametrize("value", [0, 4, -1])
def test_unknown_purposes_are_refused(value: int) -> None:
    with pytest.raises(ValueError, match="no purpose"):
        purpose_from_wire(value)


@given(st.binary(max_size=300))
def test_random_bytes_are_a_manifest_or_a_value_error(data: bytes) -> None:
    try:
        manifest = manifest_from_wire(state_pb2.ManifestReply.FromString(data))
    except (DecodeError, ValueError):
        return
    assert manifest_from_wire(manifest_to_wire(manifest)) == manifest


Spoil = Callable[[state_pb2.ManifestReply], object]
MANIFESTS: dict[str, tuple[Spoil, str]] = {
    "a size beyond all models": (lambda m: setattr(m, "total_bytes", 2**63), "size is below"),
    "chunks of nothing": (lambda m: setattr(m, "chunk_bytes", 0), "chunks have"),
    "giant chunks": (lambda m: setattr(m, "chunk_bytes", 2**32 - 1), "chunks have"),
    "a digest too few": (lambda m: setattr(m, "chunk_digests", b"x" * 32), "digests"),
    "half a digest": (lambda m: setattr(m, "chunk_digests", b"x" * 63), "digests"),
    "no digest of the whole": (lambda m: m.ClearField("digest"), "digests"),
    "more bytes than digests": (lambda m: setattr(m, "total_bytes", 1000), "digests"),
    "no kind": (lambda m: m.ClearField("kind"), "kind"),
    "an unknown dtype": (lambda m: setattr(m.tensors[0], "dtype", "object"), "unknown dtype"),
    "bytes that shape does not give": (lambda m: setattr(m.tensors[0], "nbytes", 61), "shape and dtype"),
    "a shape that overflows": (lambda m: m.tensors[0].shape.append(2**63), "dimension"),
    "many dimensions": (lambda m: m.tensors[0].shape.extend([1] * 17), "dimensions"),
    "a tensor outside": (lambda m: setattr(m.tensors[0], "offset", 20), "past the end"),
    "a tensor far outside": (lambda m: setattr(m.tensors[0], "offset", 2**64 - 1), "past the end"),
    "a name with a line break": (lambda m: setattr(m.tensors[0], "name", "a\nb"), "control"),
    "large options": (lambda m: setattr(m, "meta_json", b" " * (2**20 + 1)), "bytes of options"),
    "a giant list": (lambda m: m.tensors.extend([state_pb2.TensorSpec()] * 100_000), "tensors"),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_that_do_not_add_up_are_refused(name: str) -> None:
    spoil, expected = MANIFESTS[name]
    wire = manifest_to_wire(MANIFEST)
    spoil(wire)
    with pytest.raises(ValueError, match=expected):
        manifest_from_wire(wire)


RESULTS: dict[str, tuple[Callable[[state_pb2.ResultInfo], object], str]] = {
    "no members": (lambda r: (r.ClearField("members"), r.ClearField("records")), "0 members"),
    "a record too few": (lambda r: r.records.pop(), "1 records"),
    "a long record": (lambda r: r.records.__setitem__(0, b"x" * 2000), "bytes of a record"),
    "a member twice": (lambda r: r.members.__setitem__(0, r.members[1]), "twice"),
    "no id": (lambda r: r.members.__setitem__(0, "me"), "peer id"),
    "a giant": (lambda r: setattr(r, "nbytes", 2**50), "size is below"),
}


@pytest.mark.parametrize("name", RESULTS)
def test_results_that_do_not_add_up_are_refused(name: str) -> None:
    spoil, expected = RESULTS[name]
    wire = result_to_wire(RESULT)
    spoil(wire)
    with pytest.raises(ValueError, match=expected):
        result_from_wire(wire)


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        (jobs_pb2.Job(digest=JOB.digest), "not empty"),
        (jobs_pb2.Job(json=b"{}", digest="F" * 64), "hex"),
        (jobs_pb2.Job(json=b"{}"), "hex"),
        (jobs_pb2.Job(json=b"x" * (2**20 + 1), digest=JOB.digest), "bytes of a job"),
    ],
)
def test_jobs_out_of_bounds_are_refused(job: jobs_pb2.Job, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        job_from_wire(job)


@pytest.mark.parametrize(("port", "size"), [(0, 32), (65536, 32), (1, 31), (1, 33), (1, 0)])
def test_tickets_out_of_bounds_are_refused(port: int, size: int) -> None:
    with pytest.raises(ValueError, match=r"port|token"):
        ticket_from_wire(links_pb2.Ticket(port=port, token=b"x" * size))


@pytest.mark.parametrize("size", [1, 31, 33, 64])
def test_shares_out_of_bounds_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        ticket_from_wire(links_pb2.Ticket(port=1, token=b"x" * 32, share=b"x" * size))
    with pytest.raises(ValueError, match="32 bytes"):
        share_from_wire(b"x" * size)
