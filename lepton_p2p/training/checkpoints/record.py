"""What stands beside the tensors of a checkpoint: ``manifest.json``, one canonical JSON text with its own digest."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lepton_p2p._version import __version__
from lepton_p2p.errors import IntegrityError
from lepton_p2p.replication.cursor import Cursor
from lepton_p2p.training.manifest import DTYPES, MAX_DIMENSIONS, MAX_TENSORS, TensorSpec, aligned
from lepton_p2p.training.snapshots import Snapshot
from lepton_p2p.training.state import digest_of_tensors, digest_text

MAX_BYTES = 64 << 20
"""Of a manifest file: it is read whole."""

_Count = Annotated[int, Field(ge=0, lt=1 << 63)]
_Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True, slots=True)
class Place:
    """How far a training has come: optimizer steps, samples used, passes begun, contributions applied."""

    step: int = 0
    samples: int = 0
    pass_number: int = 0
    work: int = 0


def place_of(cursor: Cursor) -> Place:
    """Where a replicated data cursor stands."""
    return Place(cursor.step, cursor.samples, cursor.pass_number, cursor.work)


class Record(BaseModel):
    """job: digest of the job, empty for a program's own loop.  round: of the lineage that wrote it, for information.
    step, samples, pass_number, work: see :class:`Place`.  written: seconds since 1970 on the writer's clock.

    size (bytes), sha256: of the file with the tensors.  table: name, dtype and shape of every tensor, in the order of
    the state.  params: xxh3_64 over parameters and buffers, as ``lepton-peer status`` shows it.  state: SHA-256 of
    everything, tensors and ``meta`` (data cursor, plain values of the optimizer, what the strategy adds).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    version: Annotated[str, Field(max_length=64)] = __version__
    job: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")]
    strategy: Annotated[str, Field(max_length=64)]
    round: _Count
    step: _Count
    samples: _Count
    pass_number: _Count
    work: _Count
    written: float
    size: _Count
    sha256: _Sha256
    params: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
    state: _Sha256
    table: tuple[tuple[str, str, tuple[_Count, ...]], ...]
    meta: dict[str, Any]

    @classmethod
    def of(
        cls, snapshot: Snapshot, place: Place, *, job: str, strategy: str, written: float, size: int, sha256: str
    ) -> Record:
        """Of a snapshot whose tensors are in a file of this ``size`` and ``sha256``."""
        return cls(
            job=job,
            strategy=strategy,
            round=snapshot.round,
            step=place.step,
            samples=place.samples,
            pass_number=place.pass_number,
            work=place.work,
            written=written,
            size=size,
            sha256=sha256,
            params=digest_text(digest_of_tensors(snapshot.tensors())),
            state=snapshot.manifest.digest.hex(),
            table=tuple((spec.name, spec.dtype, spec.shape) for spec in snapshot.tensors_table),
            meta=snapshot.meta,
        )

    @property
    def place(self) -> Place:
        return Place(self.step, self.samples, self.pass_number, self.work)

    @property
    def meta_json(self) -> str:
        """``meta`` as a snapshot has it."""
        return json.dumps(self.meta, sort_keys=True, separators=(",", ":"))

    def specs(self) -> tuple[TensorSpec, ...]:
        """The table with offsets; :class:`IntegrityError` for one that no snapshot has."""
        specs: list[TensorSpec] = []
        end = 0
        for name, dtype, shape in self.table:
            if dtype not in DTYPES or len(shape) > MAX_DIMENSIONS:
                raise IntegrityError(f"the manifest has an impossible tensor {name[:80]!r}")
            specs.append(TensorSpec(name, dtype, shape, aligned(end)))
            end = specs[-1].offset + specs[-1].nbytes
        # The file is there, so its size is real; what the table announces is only a claim.
        if len(specs) > MAX_TENSORS or sum(spec.nbytes for spec in specs) > self.size:
            raise IntegrityError("the manifest announces more than the file with the tensors holds")
        return tuple(specs)

    def encode(self) -> bytes:
        """UTF-8 JSON, sorted keys, one space of indentation; ``digest`` is the SHA-256 of the rest."""
        table = self.model_dump(mode="python")
        table["digest"] = hashlib.sha256(_text(table)).hexdigest()
        return _text(table)

    @classmethod
    def decode(cls, data: bytes) -> Record:
        """Read what ``encode`` wrote, to the byte; :class:`IntegrityError` for anything else."""
        try:
            table = json.loads(data)
            table.pop("digest")
            record = cls.model_validate(table)
            same = record.encode() == data
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            why = "it says what no manifest says" if isinstance(error, ValidationError) else str(error)
            raise IntegrityError(f"the manifest cannot be read: {why.splitlines()[0]}") from None
        if not same:
            raise IntegrityError("the manifest does not match its own digest")
        return record


def _text(table: dict[str, Any]) -> bytes:
    return json.dumps(table, sort_keys=True, indent=1).encode() + b"\n"
