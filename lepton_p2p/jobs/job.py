"""A job: a declarative description of what to train.  Data only; it travels between peers as JSON."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lepton_p2p.jobs.components import DataSpec, ModelSpec, OptimizerSpec, StrategySpec
from lepton_p2p.models import LOSSES, BadOption

LARGEST = 2**53 - 1
"""The largest integer that every JSON reader keeps."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class Schedule(_Strict):
    """How long to train, and with which learning rate.

    passes: how often every sample is used.  steps: how many optimizer steps (gossip: how many batches, summed over all
    peers).  At least one of them; where both are given, whichever comes first ends the training.  lr: the factor on the
    optimizer's own learning rate: 1, or half a cosine from 1 to ``lr_floor`` over the training.  warmup_steps: the
    factor rises linearly over so many first steps.
    """

    passes: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    steps: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None
    lr: Literal["constant", "cosine"] = "constant"
    lr_floor: Annotated[float, Field(ge=0, le=1)] = 0.0
    warmup_steps: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0

    @model_validator(mode="after")
    def _has_an_end(self) -> Self:
        if self.passes is None and self.steps is None:
            raise ValueError("give passes or steps, otherwise the training never ends")
        return self


class Job(_Strict):
    """What to train (names of the registries of ``models``, or a Python file), how, and for how long.

    batch_size: samples per peer and step.  evaluate_every: steps between two evaluations on the test set (0: only at
    the end).  file, file_digest: name and SHA-256 of the Python file whose ``build()`` replaces model, data,
    optimizer and loss; the file itself never travels.  seed: of initial parameters, synthetic data and permutations.
    """

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[\w .+-]+$")] = "job"
    seed: Annotated[int, Field(ge=0, le=LARGEST)] = 0
    schedule: Schedule
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = 32
    evaluate_every: Annotated[int, Field(ge=0, le=1_000_000_000)] = 50
    strategy: StrategySpec = Field(default_factory=lambda: StrategySpec.model_validate("all_reduce"))
    model: ModelSpec | None = None
    data: DataSpec | None = None
    optimizer: OptimizerSpec | None = None
    loss: Annotated[str, Field(max_length=64)] = "cross_entropy"
    # Only ever shown and compared: a name from the network must not become a path on this machine.
    file: Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^/\\\x00-\x1f]+$")] | None = None
    file_digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None

    @field_validator("loss")
    @classmethod
    def _known_loss(cls, value: str) -> str:
        try:
            LOSSES.entry(value)
        except BadOption as error:
            raise ValueError(error.text) from None
        return value

    @model_validator(mode="after")
    def _names_or_file(self) -> Self:
        parts = {"model": self.model, "data": self.data, "optimizer": self.optimizer}
        if (self.file is None) != (self.file_digest is None):
            raise ValueError("file and file_digest come together")
        for key, part in parts.items():
            if self.file is not None and part is not None:
                raise ValueError(f"[{key}] and file exclude each other: build() of the file says what to train")
            if self.file is None and part is None:
                raise ValueError(f"[{key}] is required")
        return self

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no white space, defaults written out; ``parse_job`` reads it."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=True)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, 64 hex digits: peers train together only if theirs are equal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()
