"""What a peer reads from its own disk when it starts again: damage is as good as an attack."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn

from fuzzing.target import Target
from lepton_p2p.errors import IntegrityError
from lepton_p2p.training.checkpoints import Mark, Place, Record
from lepton_p2p.training.checkpoints.files import TENSORS, read_snapshot
from lepton_p2p.training.snapshots import capture

_JOB = "ab" * 32
_SNAPSHOT = capture(nn.Linear(3, 2), round=5, extra={"shuffle": True})
_TENSORS = save({name: tensor.clone() for name, tensor in _SNAPSHOT.tensors().items()})
_RECORD = Record.of(
    _SNAPSHOT, Place(5, 50, 1, 9), job=_JOB, strategy="plain", written=1.5, size=len(_TENSORS), sha256="0" * 64
)
_MARK = Mark(_JOB, 5, 50, 9, 1.5)


def manifest(data: bytes) -> None:
    """What is accepted is what would be written, to the byte, and its tensors fit into the file that it names."""
    try:
        record = Record.decode(data)
        assert record.encode() == data
        specs = record.specs()
    except IntegrityError:
        return
    assert sum(spec.nbytes for spec in specs) <= record.size


def forged_manifest(data: bytes) -> None:
    """As above, for whoever can compute the digest: ``data`` is the manifest without it."""
    try:
        table = json.loads(data)
        digest = hashlib.sha256(json.dumps(table, sort_keys=True, indent=1).encode() + b"\n").hexdigest()
        text = json.dumps({**table, "digest": digest}, sort_keys=True, indent=1)
    except (ValueError, TypeError, RecursionError):
        return
    manifest(text.encode() + b"\n")


def tensors(data: bytes) -> None:
    """Any file in the place of the tensors, with the digest that the manifest has: refused, or of the right kind."""
    record = _RECORD.model_copy(update={"size": len(data), "sha256": hashlib.sha256(data).hexdigest()})
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / TENSORS).write_bytes(data)
        try:
            found = read_snapshot(Path(folder), record)
        except IntegrityError:
            return
    assert torch.equal(found.image, _SNAPSHOT.image)


def mark(data: bytes) -> None:
    """What is accepted is what would be written."""
    found = Mark.decode(data, _JOB)
    assert found is None or found.encode() == data


_PLAIN = {key: value for key, value in json.loads(_RECORD.encode()).items() if key != "digest"}

TARGETS = (
    Target("checkpoints.manifest", manifest, (_RECORD.encode(),)),
    Target("checkpoints.forged_manifest", forged_manifest, (json.dumps(_PLAIN).encode(),)),
    Target("checkpoints.tensors", tensors, (_TENSORS,)),
    Target("checkpoints.mark", mark, (_MARK.encode(),)),
)
