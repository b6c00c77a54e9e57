"""What is carried inside of frames and messages: records, notes, headers, jobs, meta data, addresses."""

from __future__ import annotations

import json

import torch

from fuzzing.target import Reader, Target, refusing
from lepton_p2p.errors import AddressError, IntegrityError, JobError
from lepton_p2p.gossip.wire import Header
from lepton_p2p.identity import PeerId, split_address
from lepton_p2p.jobs import parse_job
from lepton_p2p.replication.cursor import Cursor
from lepton_p2p.replication.notes import Note
from lepton_p2p.replication.ranges import Range
from lepton_p2p.rounds.butterfly import ButterflyProgress
from lepton_p2p.rounds.layout import Group, Layout
from lepton_p2p.rounds.records import Record
from lepton_p2p.rounds.ring import ProtocolViolation, RingProgress, WrongWay, encode_records
from lepton_p2p.training.snapshots import Snapshot

_JOB = """name = "x"
batch_size = 4
loss = "cross_entropy"
strategy = "gossip"
model = { name = "mlp", sizes = [64, 10] }
data = { name = "digits" }
optimizer = { name = "sgd", lr = 0.1 }
schedule = { passes = 2, lr = "cosine" }
"""
_META = json.dumps({"cursor": Cursor(10, 7, 2, returned=(Range(1, 3),), position=4, used=2).to_json()})
_CONTRIBUTION = encode_records([b"theirs"])
_RESULT = encode_records([b"own record", b"theirs", b"\0"])
_BUTTERFLY = bytes(2) + b"".join(
    bytes((0, leg, segment, chunk, nbytes // 4, len(first) if chunk == 0 else 0)) + (first if chunk == 0 else b"")
    for leg, segment, first, sizes in ((1, 0, _CONTRIBUTION, [64] * 4), (2, 1, _RESULT, [64] * 5 + [24]))
    for chunk, nbytes in enumerate(sizes)
)
"""All that the other of two members sends in a butterfly."""
_RECORD = Record(PeerId("a" * 32), 1.0, 2, 3, 4, note=b"note")


def record(data: bytes) -> None:
    """What a member says of itself; what is accepted means the same when it is written again."""
    try:
        found = Record.decode(data)
    except ValueError:
        return
    assert Record.decode(found.encode()) == found


def announcements(data: bytes) -> None:
    """Headers and records as a left neighbour could announce them: taken in order, or a violation."""
    reader = Reader(data)
    world = 2 + reader.byte() % 3
    layout = Layout.even([Group("float32", 4, 0, 600)], world, chunk_bytes=64)
    progress = RingProgress(world, reader.byte() % world, layout, world - 1, b"own record")
    progress.begin()
    try:
        while reader and not progress.done:
            phase, segment, chunk = reader.byte() % 3, reader.byte() % 5, reader.byte() % 4
            nbytes = int.from_bytes(reader.take(1)) * 4
            step = progress.announced(phase, segment, chunk, nbytes, reader.take(reader.byte()))
            assert step.chunk.nbytes == nbytes
            progress.completed(step)
    except (ProtocolViolation, WrongWay):
        return


def butterfly(data: bytes) -> None:
    """The same of a butterfly, as the other members could announce them; who is done has all records."""
    reader = Reader(data)
    world = 2 + reader.byte() % 3
    layout = Layout.even([Group("float32", 4, 0, 600)], world, chunk_bytes=64)
    progress = ButterflyProgress(world, reader.byte() % world, layout, b"own record")
    progress.begin()
    others = [rank for rank in range(world) if rank != progress.rank]
    try:
        while reader and not progress.done:
            sender, leg = others[reader.byte() % len(others)], 1 + reader.byte() % 3
            segment, chunk, nbytes = reader.byte() % 5, reader.byte() % 7, reader.byte() * 4
            arrival = progress.announced(sender, leg, segment, chunk, nbytes, reader.take(reader.byte()))
            assert arrival.chunk.nbytes == nbytes
            progress.completed(arrival)
            if progress.gathered and progress.rank not in progress.judgements:
                progress.aggregated(())
    except (ProtocolViolation, WrongWay):
        return
    if progress.done:
        assert len(progress.ordered_records()) == world
        assert progress.refused() <= set(range(world))


def meta(data: bytes) -> None:
    """What is not a tensor in a snapshot."""
    text = data.decode("utf-8", "replace")
    refusing(lambda _: Snapshot(1, (), text, torch.empty(0, dtype=torch.uint8)).cursor, IntegrityError)(data)


def text_of(data: bytes) -> str:
    return data.decode("utf-8", "replace")


TARGETS = (
    Target("documents.record", record, (_RECORD.encode(),)),
    Target("documents.announcements", announcements, (bytes(40),)),
    Target("documents.butterfly", butterfly, (bytes(40), _BUTTERFLY)),
    Target("documents.note", refusing(Note.decode, ValueError), (Note().encode(),)),
    Target("documents.gossip_header", refusing(Header.decode, ValueError)),
    Target(
        "documents.job",
        refusing(lambda data: parse_job(text_of(data)), JobError),
        (_JOB.encode(), b'{"name": "x", "batch_size": 4, "schedule": {"steps": 5}, "loss": "mse"}'),
    ),
    Target(
        "documents.meta",
        meta,
        (_META.encode(),),
    ),
    Target(
        "documents.address",
        refusing(lambda data: split_address(text_of(data)), AddressError),
        (b"127.0.0.1:7700", b"[::1]:1"),
    ),
)
