"""From a job to what is trained."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lepton_p2p.errors import JobError, JobMismatch
from lepton_p2p.models.built import Built
from lepton_p2p.models.datasets import DATASETS
from lepton_p2p.models.losses import LOSSES
from lepton_p2p.models.networks import MODELS
from lepton_p2p.models.optimizers import OPTIMIZERS
from lepton_p2p.models.python_file import file_digest, run_build

if TYPE_CHECKING:
    from lepton_p2p.jobs import Job

MAX_PARAMETERS = 4_000_000_000
"""Of a model by registered name: 16 GB in float32."""


def build(job: Job, *, file: Path | None = None) -> Built:
    """Model, data, loss and optimizer of ``job``: the same on every peer, with the global generator untouched.

    ``file``: the local copy of the Python file for jobs that name one.  Raises :class:`JobMismatch` if it is missing or
    another one, :class:`JobError` if something cannot be built or does not fit together.
    """
    built = _from_file(job, file) if job.file is not None else _from_names(job)
    _try_one_batch(built)
    return built


def check_file(job: Job, path: Path | None) -> None:
    """Raise :class:`JobMismatch` unless ``path`` is the Python file that ``job`` names (if it does)."""
    if job.file is None:
        return
    if path is None:
        raise JobMismatch(
            f"the swarm's job is the Python file {job.file!r} with digest {job.file_digest}; code never travels: "
            f"copy the file to this machine and start with --job {job.file}"
        )
    found = file_digest(path)
    if found != job.file_digest:
        raise JobMismatch(
            f"{path} has digest {found}, the swarm's {job.file!r} has {job.file_digest}: every peer needs the same"
        )


def _from_file(job: Job, file: Path | None) -> Built:
    check_file(job, file)
    assert file is not None  # check_file has refused None
    return run_build(file, job.seed)


def _from_names(job: Job) -> Built:
    if job.model is None or job.data is None or job.optimizer is None:
        raise JobError("a job needs [model], [data] and [optimizer], or a Python file")
    optimizer = job.optimizer

    def make_optimizer(params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return OPTIMIZERS.make(optimizer.name, optimizer.options, params)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.seed)
        model = _make_model(job.model.name, job.model.options)
    train, test = DATASETS.make(job.data.name, job.data.options, job.seed)
    try:
        return Built(model, train, test, LOSSES.entry(job.loss).make, make_optimizer)
    except ValueError as error:
        raise JobError(f"data: {error}") from None


def _make_model(name: str, options: dict[str, Any]) -> nn.Module:
    # A job may come from a stranger: count on the meta device, which allocates nothing, before allocating.
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in MODELS.make(name, options).parameters())
    if size > MAX_PARAMETERS:
        raise JobError(
            f"model: {name!r} with these options has {size} parameters, at most {MAX_PARAMETERS} are allowed"
        )
    return MODELS.make(name, options)


def _telling_samples(y: torch.Tensor) -> list[int]:
    """The first two, and of classes the smallest and the largest number: what a model with too few outputs fails on."""
    samples = list(range(min(2, len(y))))
    if not y.is_floating_point() and y.numel():
        rows = y.reshape(len(y), -1)
        samples += [int(rows.amin(1).argmin()), int(rows.amax(1).argmax())]
    return samples


def _try_one_batch(built: Built) -> None:
    """A model that does not fit its data is found here, in one line, and not in the first round."""
    samples = _telling_samples(built.train[1])
    x, y = (tensor[samples] for tensor in built.train)
    was_training = built.model.training
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            loss = built.loss_fn(built.model.eval()(x), y)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise JobError(
            f"model, data and loss do not fit together (x {tuple(x.shape)}, y {tuple(y.shape)}): {text}"
        ) from None
    finally:
        built.model.train(was_training)
    if loss.ndim:
        raise JobError(f"the loss must be one number (the mean over the samples), not of shape {tuple(loss.shape)}")
