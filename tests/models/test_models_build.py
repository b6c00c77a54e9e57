"""Building what a job names: the same on every peer, bounded, and without side effects."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lepton_p2p.errors import JobError
from lepton_p2p.jobs import Job, job_from_table
from lepton_p2p.models import DATASETS, LOSSES, MODELS, OPTIMIZERS, build, npz
from lepton_p2p.models.python_file import run_build
from lepton_p2p.training import params_digest

TABLE = {
    "seed": 5,
    "model": {"name": "mlp", "sizes": [16, 8, 4]},
    "data": {"name": "synthetic_classification"},
    "optimizer": {"name": "adam"},
    "schedule": {"passes": 1},
}


def job(**changes: object) -> Job:
    return job_from_table({**TABLE, **changes})


def test_two_builds_are_bit_identical_and_another_seed_is_not() -> None:
    first, second, other = build(job()), build(job()), build(job(seed=6))
    assert params_digest(first.model) == params_digest(second.model) != params_digest(other.model)
    assert torch.equal(first.train[0], second.train[0])
    assert not torch.equal(first.train[0], other.train[0])


def test_the_global_generator_is_left_as_it_was() -> None:
    before = torch.get_rng_state()
    build(job())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": {"name": "mlp", "sizes": [17, 4]}}, "do not fit together"),
        ({"model": {"name": "mlp", "sizes": [16, 2]}}, "do not fit together.*out of bounds"),
        ({"model": {"name": "mlp", "sizes": [65536] * 64}}, "parameters, at most"),
        ({"data": {"name": "synthetic_linear", "samples": 10_000_000, "inputs": 65536}}, "too large"),
        ({"data": {"name": "synthetic_linear", "samples": 1, "inputs": 65536, "outputs": 65536}}, "too large"),
    ],
)
def test_what_cannot_be_built_is_told_before_memory_is_spent_on_it(changes: dict[str, object], said: str) -> None:
    with pytest.raises(JobError, match=said) as caught:
        build(job(**changes))
    assert "\n" not in str(caught.value)


def test_a_learning_rate_that_float32_cannot_hold_is_refused() -> None:
    with pytest.raises(JobError, match=r"optimizer\.lr: "):
        job(optimizer={"name": "sgd", "lr": 1e300})


def test_what_build_raises_is_told_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "train.py"
    file.write_text("def build():\n    raise RuntimeError('first line\\nsecond line')\n")
    with pytest.raises(JobError, match=r"train\.py:2: build\(\) failed: RuntimeError: first line second line$"):
        run_build(file, 0)


def test_digits_are_split_the_same_way_for_every_seed() -> None:
    (x, y), (test_x, test_y) = DATASETS.make("digits", {}, 1)
    assert (x.shape, test_x.shape, x.dtype, y.dtype) == ((1437, 64), (360, 64), torch.float32, torch.int64)
    assert float(x.min()) >= 0
    assert float(x.max()) <= 1
    assert torch.equal(x, DATASETS.make("digits", {}, 2)[0][0])
    assert set(test_y.tolist()) == set(range(10))


def test_without_scikit_learn_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(JobError, match=r"pip install 'lepton_p2p\[demo\]'"):
        DATASETS.make("digits", {}, 1)


@pytest.mark.parametrize(
    ("name", "options", "shape"),
    [
        ("mlp", {"sizes": [64, 5, 3], "activation": "gelu"}, (2, 3)),
        ("linear", {"inputs": 64, "outputs": 2}, (2, 2)),
        ("logistic", {"inputs": 64, "classes": 4}, (2, 4)),
        ("small_cnn", {}, (2, 10)),
    ],
)
def test_every_model_maps_a_batch(name: str, options: dict[str, object], shape: tuple[int, ...]) -> None:
    assert MODELS.make(name, options)(torch.zeros(2, 64)).shape == shape


def test_every_optimizer_reduces_a_parabola() -> None:
    for entry in OPTIMIZERS:
        parameter = torch.nn.Parameter(torch.tensor([1.0]))
        optimizer = OPTIMIZERS.make(entry.name, {"lr": 0.01}, [parameter])
        for _ in range(10):
            optimizer.zero_grad()
            parameter.pow(2).sum().backward()
            optimizer.step()
        assert abs(float(parameter.detach())) < 1.0, entry.name


def test_losses_do_not_broadcast_a_column_against_a_row() -> None:
    prediction, target = torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 2.0])
    assert float(LOSSES.entry("mse").make(prediction, target)) == 0.0
    logits, labels = torch.tensor([[50.0], [-50.0]]), torch.tensor([1, 0])
    assert float(LOSSES.entry("bce").make(logits, labels)) < 1e-6


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "data.npz"
    x, y = np.ones((6, 16)), np.arange(6) % 4
    np.savez(path, x_train=x, y_train=y, x_test=x[:2], y_test=y[:2])
    return path


def test_data_by_uri_is_read_when_its_digest_is_that_of_the_job(archive: Path) -> None:
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    built = build(job(data={"uri": archive.as_uri(), "sha256": digest}))
    assert built.train[0].shape == (6, 16)
    assert (built.train[0].dtype, built.train[1].dtype) == (torch.float32, torch.int64)


def test_data_by_uri_is_refused_when_it_is_something_else(archive: Path) -> None:
    wrong = job(data={"uri": archive.as_uri(), "sha256": "0" * 64})
    with pytest.raises(
        JobError, match=f"has SHA-256 {hashlib.sha256(archive.read_bytes()).hexdigest()}, the job says 000"
    ):
        build(wrong)
    with pytest.raises(JobError, match="must start with https:// or file://"):
        build(job(data={"uri": "ftp://host/x.npz", "sha256": "0" * 64}))
    with pytest.raises(JobError, match="cannot be read"):
        build(job(data={"uri": (archive.parent / "none.npz").as_uri(), "sha256": "0" * 64}))


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    np.savez(path, x_train=np.array([{}], dtype=object), y_train=[1], x_test=[1], y_test=[1])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(JobError, match="not a usable"):
        build(job(data={"uri": path.as_uri(), "sha256": digest}))


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 and no more", b"\x93NUMPY" + bytes(100), b"text"], ids=["empty", "zip", "npy", "text"]
)
def test_bytes_that_are_no_archive_are_told_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.npz"
    path.write_bytes(content)
    with pytest.raises(JobError, match="not a usable") as caught:
        build(job(data={"uri": path.as_uri(), "sha256": hashlib.sha256(content).hexdigest()}))
    assert "\n" not in str(caught.value)


def test_a_single_array_is_not_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.ones(3))
    with pytest.raises(JobError, match="not a usable"):
        build(job(data={"uri": path.as_uri(), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}))


def test_an_archive_that_swells_is_refused_before_memory_is_taken(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = archive.with_name("packed.npz")
    np.savez_compressed(packed, **dict(np.load(archive)), more=np.zeros(100_000))
    monkeypatch.setattr(npz, "MAX_BYTES", 50_000)
    assert packed.stat().st_size < 50_000
    with pytest.raises(JobError, match="holds more than 50000 bytes"):
        build(job(data={"uri": packed.as_uri(), "sha256": hashlib.sha256(packed.read_bytes()).hexdigest()}))
