"""The two files of a checkpoint: how they come to be there whole, and how they are read without trust."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lepton_p2p.errors import IntegrityError
from lepton_p2p.training.checkpoints.record import MAX_BYTES, Place, Record
from lepton_p2p.training.snapshots import Snapshot
from lepton_p2p.training.state import raw

TENSORS, MANIFEST = "tensors.safetensors", "manifest.json"
UNFINISHED = ".unfinished-"


def write_whole(snapshot: Snapshot, place: Place, path: Path, *, job: str, strategy: str, now: float) -> Record:
    """Make the folder ``path`` with both files, or nothing: ``OSError``, also for what safetensors says of the disk."""
    folder = path.with_name(f"{UNFINISHED}{path.name}")
    folder.mkdir()
    try:
        tensors = folder / TENSORS
        _save(snapshot, tensors)
        _sync_file(tensors)
        size, sha256 = _digest(tensors)
        record = Record.of(snapshot, place, job=job, strategy=strategy, written=now, size=size, sha256=sha256)
        with (folder / MANIFEST).open("wb") as file:
            file.write(record.encode())
            file.flush()
            os.fsync(file.fileno())
        sync_folder(folder)
        folder.rename(path)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    sync_folder(path.parent)
    return record


def read_record(path: Path) -> Record:
    """The manifest of the checkpoint ``path``, and that the file with the tensors has the size that it says.

    Digests of the tensors are compared by ``read_snapshot`` only.  :class:`IntegrityError`, ``OSError``.
    """
    manifest = path / MANIFEST
    if manifest.stat().st_size > MAX_BYTES:
        raise IntegrityError("its manifest is too large")
    record = Record.decode(manifest.read_bytes())
    size = (path / TENSORS).stat().st_size
    if size != record.size:
        raise IntegrityError(f"its tensors have {size} bytes, {record.size} were written")
    return record


def read_snapshot(path: Path, record: Record) -> Snapshot:
    """What was written, every byte compared; nothing is allocated for more than the file really holds.

    :class:`IntegrityError`, ``OSError``.
    """
    tensors = path / TENSORS
    if _digest(tensors) != (record.size, record.sha256):
        raise IntegrityError("its tensors do not have the digest that was written")
    specs = record.specs()
    image = torch.zeros(max((spec.offset + spec.nbytes for spec in specs), default=0), dtype=torch.uint8)
    try:
        with safe_open(tensors, framework="pt") as file:
            for spec in specs:
                tensor = file.get_tensor(spec.name)
                if (str(tensor.dtype), tuple(tensor.shape)) != (f"torch.{spec.dtype}", spec.shape):
                    raise IntegrityError(f"its tensor {spec.name[:80]!r} is not what the manifest says")
                image[spec.offset : spec.offset + spec.nbytes].copy_(raw(tensor))
    except SafetensorError as error:
        raise IntegrityError(f"its tensors cannot be read: {error}") from None
    snapshot = Snapshot(record.round, specs, record.meta_json, image)
    if snapshot.manifest.digest.hex() != record.state:
        raise IntegrityError("its state does not have the digest that was written")
    return snapshot


def sync_folder(folder: Path) -> None:
    """Make what was created, renamed or removed in ``folder`` last."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _save(snapshot: Snapshot, file: Path) -> None:
    try:
        save_file(snapshot.tensors(), file, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(errno.EIO, str(error)) from None


def _sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _digest(path: Path) -> tuple[int, str]:
    """Size and SHA-256 of a file."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), sha256
