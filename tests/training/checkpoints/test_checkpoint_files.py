"""A checkpoint on disk: what was written comes back, and whatever happened to its bytes is found."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from checkpoint_samples import JOB, place, places, snapshot, snapshots, trained
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from lepton_p2p.errors import IntegrityError
from lepton_p2p.training.checkpoints import Place, Record
from lepton_p2p.training.checkpoints.files import MANIFEST, TENSORS, read_record, read_snapshot, write_whole
from lepton_p2p.training.snapshots import Snapshot, restore
from lepton_p2p.training.state import digest_text, params_digest


@contextmanager
def folder() -> Iterator[Path]:
    """Not tmp_path, which hypothesis would share between examples."""
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


def write(state: Snapshot, path: Path, where: Place | None = None) -> Record:
    return write_whole(state, where or place(), path, job=JOB, strategy="all_reduce", now=1234.5)


@settings(max_examples=60, deadline=None)
@given(snapshots(), places)
def test_any_state_comes_back_as_it_was(state: Snapshot, where: Place) -> None:
    with folder() as made:
        written = write(state, made / "one", where)
        record = read_record(made / "one")
        assert (record, record.place) == (written, where)
        back = read_snapshot(made / "one", record)
    assert (back.round, back.tensors_table, back.meta_json) == (state.round, state.tensors_table, state.meta_json)
    assert torch.equal(back.image, state.image)


def test_a_model_and_its_optimizer_are_restored_bit_by_bit_and_their_digest_is_in_the_manifest(tmp_path: Path) -> None:
    model, _ = trained()
    record = write(snapshot(), tmp_path / "one")
    other, optimizer = trained(steps=1)
    restore(read_snapshot(tmp_path / "one", record), other, optimizer)
    assert params_digest(other) == params_digest(model)
    assert record.params == digest_text(params_digest(model))


def test_any_program_reads_the_tensors_with_safetensors_alone(tmp_path: Path) -> None:
    state = snapshot()
    write(state, tmp_path / "one")
    tensors = load_file(tmp_path / "one" / TENSORS)
    assert set(tensors) == set(state.tensors())
    assert all(torch.equal(tensor, state.tensors()[name]) for name, tensor in tensors.items())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "one"
    write(snapshot(), path)
    return path


@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from([TENSORS, MANIFEST]), where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_anywhere_is_found(whole: Path, name: str, where: float, bit: int) -> None:
    with damaged(whole) as copy:
        data = bytearray((copy / name).read_bytes())
        data[int(where * len(data))] ^= 1 << bit
        (copy / name).write_bytes(data)
        with pytest.raises(IntegrityError):
            read_snapshot(copy, read_record(copy))


@settings(max_examples=100, deadline=None)
@given(name=st.sampled_from([TENSORS, MANIFEST]), where=st.floats(0, 1, exclude_max=True), more=st.binary(max_size=3))
def test_a_file_that_is_cut_or_has_grown_is_found(whole: Path, name: str, where: float, more: bytes) -> None:
    with damaged(whole) as copy:
        data = (copy / name).read_bytes()
        changed = data + more if more else data[: int(where * len(data))]
        (copy / name).write_bytes(changed)
        with pytest.raises(IntegrityError):
            read_snapshot(copy, read_record(copy))


@pytest.mark.parametrize("name", [TENSORS, MANIFEST])
def test_a_missing_file_is_found(whole: Path, name: str) -> None:
    with damaged(whole) as copy:
        (copy / name).unlink()
        with pytest.raises(FileNotFoundError):
            read_snapshot(copy, read_record(copy))


@given(st.binary(max_size=300))
def test_random_bytes_are_no_manifest(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        Record.decode(data)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "null", "[]", "1", '{"digest": 1}', '{"digest": "x", "step": -1}', "{}", '"x"']
)
def test_json_that_is_no_manifest_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(IntegrityError, match="manifest") as caught:
        Record.decode(text.encode())
    assert "\n" not in str(caught.value)


FORGED = {
    "a tensor of terabytes": ("table", [["param.x", "float64", [2**40]]]),
    "an unknown dtype": ("table", [["param.x", "object", [1]]]),
    "too many dimensions": ("table", [["param.x", "uint8", [1] * 17]]),
    "a tensor that the file has not": ("table", [["param.x", "uint8", [1]]]),
    "another shape": ("table", [["param.0.weight", "float32", [35]]]),
    "another meta": ("meta", {"cursor": None}),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_manifest_with_a_digest_of_its_own_that_lies_is_refused_before_memory_is_taken(
    whole: Path, name: str
) -> None:
    key, value = FORGED[name]
    table = json.loads((whole / MANIFEST).read_bytes())
    del table["digest"]
    forged = Record.model_validate({**table, key: value})
    with pytest.raises(IntegrityError):
        read_snapshot(whole, Record.decode(forged.encode()))


def test_a_pickle_under_the_name_of_the_tensors_is_never_loaded(whole: Path) -> None:
    with damaged(whole) as copy:
        torch.save(torch.zeros(4), copy / TENSORS)
        data = (copy / TENSORS).read_bytes()
        record = read_record(whole)
        digest = hashlib.sha256(data).hexdigest()
        forged = record.model_copy(update={"size": len(data), "sha256": digest})
        with pytest.raises(IntegrityError, match="cannot be read"):
            read_snapshot(copy, forged)


@contextmanager
def damaged(whole: Path) -> Iterator[Path]:
    """A copy to be spoilt."""
    with folder() as made:
        yield Path(shutil.copytree(whole, made / "copy"))
