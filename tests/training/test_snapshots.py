"""Snapshots: what one peer captures another restores, bit for bit; lies are found before memory is spent."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable

import pytest
import torch
from torch import nn

from lepton_p2p.errors import IntegrityError, SchemaMismatch
from lepton_p2p.identity import PeerId
from lepton_p2p.replication.cursor import Cursor
from lepton_p2p.training.assembler import Assembler
from lepton_p2p.training.manifest import CHUNK_BYTES, Manifest, TensorSpec
from lepton_p2p.training.snapshots import Snapshot, capture, restore
from lepton_p2p.training.state import MAX_STATE_TENSORS, Schema, params_digest
from lepton_p2p.training.store import SnapshotStore

Make = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "sgd with momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adam with amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.8, 0.95)),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
}


def network(seed: int, width: int = 8) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Linear(width, 2, dtype=torch.float32))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(16, 4, generator=generator)).pow(2).mean().backward()
        optimizer.step()


CURSOR = Cursor(100, 1, 10, position=10, used=10, step=3, samples=10, claimants=(PeerId("a" * 32),))


def copied(snapshot: Snapshot, schema: Schema) -> Snapshot:
    """As a joiner gets it: manifest first, then chunks in some order."""
    assembler = Assembler(snapshot.manifest, schema)
    for index in reversed(assembler.missing):
        assembler.add(index, snapshot.read(*snapshot.manifest.span(index)))
    assert assembler.complete
    return assembler.snapshot()


@pytest.mark.parametrize("steps", [0, 3], ids=["before the first step", "after three"])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_restored_peer_goes_on_bit_identically(make: Make, steps: int) -> None:
    donor, joiner = network(1), network(2)
    theirs, ours = make(donor.parameters()), make(joiner.parameters())
    train(donor, theirs, steps)
    train(joiner, ours, 1, seed=9)  # state of its own that must be gone afterwards
    snapshot = capture(donor, theirs, CURSOR, round=7)
    train(donor, theirs, 2, seed=3)
    assert restore(copied(snapshot, Schema.of(joiner, ours)), joiner, ours) == CURSOR
    train(joiner, ours, 2, seed=3)
    assert params_digest(joiner) == params_digest(donor)
    again, own = capture(donor, theirs, CURSOR, round=9), capture(joiner, ours, CURSOR, round=9)
    assert own.manifest.digest == again.manifest.digest


def test_equal_states_have_equal_manifests_and_a_flipped_bit_has_not() -> None:
    model = network(1)
    first = capture(model, round=3)
    assert first.manifest.digest == capture(network(1), round=3).manifest.digest
    with torch.no_grad():
        next(model.parameters())[0, 0] += 1e-7
    assert first.manifest.digest != capture(model, round=3).manifest.digest


def test_a_snapshot_does_not_change_with_the_model() -> None:
    model = network(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    snapshot = capture(model, optimizer, CURSOR)
    before = bytes(snapshot.image.numpy())
    train(model, optimizer, 2)
    assert bytes(snapshot.image.numpy()) == before


def test_the_digest_sees_parameters_and_buffers() -> None:
    model = network(1)
    before = params_digest(model)
    model[1].running_mean[0] += 1  # type: ignore[index,operator]
    assert params_digest(model) != before
    assert params_digest(nn.Sequential()) != 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
def test_every_dtype_and_shape_is_kept(dtype: torch.dtype) -> None:
    model = nn.Module()
    for name, shape in {"scalar": (), "empty": (0, 3), "odd": (3, 5)}.items():
        model.register_buffer(name, torch.ones(shape).to(dtype))
    model.register_buffer("turned", torch.arange(6).reshape(2, 3).to(dtype).T)
    found = capture(model).tensors()
    for name, buffer in model.named_buffers():
        assert torch.equal(found[f"buffer.{name}"], buffer)


def test_reading_outside_of_a_snapshot_is_an_error() -> None:
    snapshot = capture(network(1))
    for offset, length in (
        (-1, 4),
        (0, snapshot.manifest.total_bytes + 1),
        (snapshot.manifest.total_bytes, 1),
        (0, -1),
    ):
        with pytest.raises(ValueError, match="outside"):
            snapshot.read(offset, length)
    with pytest.raises(TypeError, match="read-only"):
        snapshot.read(0, 4)[0] = 1


def test_chunks_are_one_mebibyte_and_each_has_a_digest() -> None:
    model = nn.Linear(1024, 700)
    manifest = capture(model).manifest
    assert len(manifest.chunk_digests) == 3
    assert [manifest.span(index)[1] for index in range(3)] == [
        CHUNK_BYTES,
        CHUNK_BYTES,
        manifest.total_bytes - 2 * CHUNK_BYTES,
    ]


def test_a_wrong_chunk_is_found_and_can_be_fetched_again() -> None:
    snapshot = capture(nn.Linear(1024, 700))
    assembler = Assembler(snapshot.manifest)
    right = bytes(snapshot.read(*snapshot.manifest.span(1)))
    with pytest.raises(IntegrityError, match="chunk 1"):
        assembler.add(1, bytes([right[0] ^ 1]) + right[1:])
    with pytest.raises(IntegrityError, match="bytes"):
        assembler.add(1, right[:-1])
    assert assembler.missing == (0, 1, 2)
    with pytest.raises(ValueError, match="missing"):
        assembler.snapshot()
    assembler.buffer(1)[:] = right
    assembler.verify(1)
    assert assembler.missing == (0, 2)


def lies(manifest: Manifest) -> dict[str, Manifest]:
    first, *others = manifest.tensors
    change = dataclasses.replace
    return {
        "a huge tensor": change(manifest, tensors=(change(first, shape=(2**50,)), *others)),
        "a negative size": change(manifest, tensors=(change(first, shape=(-4, 8)), *others)),
        "an unknown dtype": change(manifest, tensors=(change(first, dtype="object"), *others)),
        "overlapping tensors": change(manifest, tensors=(first, *(change(t, offset=0) for t in others))),
        "the same name twice": change(manifest, tensors=(first, *(change(t, name=first.name) for t in others))),
        "another total": change(manifest, total_bytes=manifest.total_bytes + 1),
        "a digest too few": change(manifest, chunk_digests=()),
        "a short digest": change(manifest, chunk_digests=(b"x",)),
        "a negative round": change(manifest, round=-1),
        "very many dimensions": change(manifest, tensors=(change(first, shape=(1,) * 40), *others)),
    }


@pytest.mark.parametrize("lie", lies(capture(network(1)).manifest))
def test_a_manifest_that_contradicts_itself_is_refused_before_allocating(lie: str) -> None:
    with pytest.raises(IntegrityError, match="manifest"):
        Assembler(lies(capture(network(1)).manifest)[lie])


def manifest_with(snapshot: Snapshot, extra: list[tuple[str, tuple[int, ...]]]) -> Manifest:
    """A consistent manifest with made-up tensors appended (and made-up digests: they are looked at later)."""
    specs, end = list(snapshot.manifest.tensors), snapshot.manifest.total_bytes
    for name, shape in extra:
        specs.append(TensorSpec(name, "float32", shape, -(-end // 64) * 64))
        end = specs[-1].offset + specs[-1].nbytes
    digests = (bytes(32),) * -(-end // CHUNK_BYTES)
    return Manifest(1, tuple(specs), digests, snapshot.meta_json, end)


@pytest.mark.parametrize(
    "extra",
    [
        [("param.more", (4,))],
        [("optimizer.0.exp_avg", (10**9,))],
        [("optimizer.99.exp_avg", (1,))],
        [("optimizer.x.exp_avg", (1,))],
        [(f"optimizer.0.{key}", (1,)) for key in range(MAX_STATE_TENSORS + 1)],
    ],
)
def test_a_joiner_allocates_no_more_than_its_own_model_explains(extra: list[tuple[str, tuple[int, ...]]]) -> None:
    model = network(1)
    schema = Schema.of(model, torch.optim.Adam(model.parameters()))
    with pytest.raises(SchemaMismatch):
        Assembler(manifest_with(capture(model), extra), schema)


def test_a_joiner_with_another_model_is_told_which_tensor_differs() -> None:
    other = network(1, width=9)
    with pytest.raises(SchemaMismatch, match=r"param.0.weight is float32 \[9, 4\] here"):
        Assembler(capture(network(1)).manifest, Schema.of(other))


def test_a_client_without_a_schema_has_a_bound() -> None:
    manifest = capture(network(1)).manifest
    with pytest.raises(IntegrityError, match="at most 10"):
        Assembler(manifest, max_bytes=10)


def test_another_optimizer_is_refused_before_anything_changes() -> None:
    donor, joiner = network(1), network(2)
    snapshot = capture(donor, torch.optim.SGD(donor.parameters(), lr=0.1), CURSOR)
    ours = torch.optim.Adam(joiner.parameters())
    before = params_digest(joiner)
    with pytest.raises(SchemaMismatch, match="other options"):
        restore(snapshot, joiner, ours)
    with pytest.raises(IntegrityError, match="weights only"):
        restore(capture(donor), joiner, ours)
    assert params_digest(joiner) == before


@pytest.mark.parametrize("meta", ["[1]", "{", "[" * 50_000, '{"cursor": 3}', '{"cursor": {"total": 1}}'])
def test_meta_data_that_is_nonsense_is_an_integrity_error(meta: str) -> None:
    model = network(1)
    snapshot = dataclasses.replace(capture(model), meta_json=meta)
    with pytest.raises(IntegrityError):
        restore(snapshot, model)


def test_an_optimizer_that_cannot_be_described_is_named() -> None:
    model = network(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.param_groups[0]["hook"] = print
    with pytest.raises(TypeError, match="'hook'"):
        capture(model, optimizer)


def test_meta_data_is_canonical_json() -> None:
    meta = json.loads(capture(network(1), extra={"b": 1, "a": 2}).meta_json)
    assert meta["extra"] == {"a": 2, "b": 1}


def test_the_store_keeps_a_snapshot_until_the_last_that_needs_it_is_settled() -> None:
    store, snapshot = SnapshotStore(), capture(network(1), round=4)
    a, b, c = (PeerId(letter * 32) for letter in "abc")
    store.hold(snapshot, [a, b])
    store.hold(snapshot, [c])
    assert store.get(4) is snapshot
    store.settle(members=[a, b], done=[a])  # c is gone, a has it, b still needs it
    assert store.rounds() == (4,)
    store.settle(members=[a, b], done=[b])
    assert store.get(4) is None
