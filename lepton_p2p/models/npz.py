"""Data sets by URI: a NumPy archive whose digest the job states.

The job may come from another peer, so neither the address nor the bytes are trusted: only https and file, a bounded
size, nothing is parsed before its SHA-256 is that of the job, and pickled objects are refused.
"""

from __future__ import annotations

import hashlib
import io
import urllib.request
from typing import IO
from urllib.error import URLError
from urllib.parse import urlsplit

import numpy as np
import torch
from torch import Tensor

from lepton_p2p.errors import JobError

MAX_BYTES = 2 << 30
TIMEOUT = 60.0
"""Seconds without a byte before a download is given up."""
KEYS = ("x_train", "y_train", "x_test", "y_test")
_BLOCK = 1 << 20


def load_npz(uri: str, sha256: str) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Read, verify and split the archive at ``uri``; :class:`JobError` in one line if anything is not as stated.

    Floating inputs become float32; integer targets become int64.
    """
    if urlsplit(uri).scheme not in ("https", "file"):
        raise JobError(f"data.uri: {uri!r} must start with https:// or file://")
    data = _read(uri)
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise JobError(f"data.uri: {uri!r} has SHA-256 {found}, the job says {sha256}")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            if sum(entry.file_size for entry in archive.zip.infolist()) > MAX_BYTES:
                raise JobError(f"data.uri: {uri!r} holds more than {MAX_BYTES} bytes")
            missing = [key for key in KEYS if key not in archive]
            if missing:
                raise JobError(f"data.uri: {uri!r} lacks the array {missing[0]!r}; it needs {', '.join(KEYS)}")
            x_train, y_train, x_test, y_test = (_tensor(archive[key]) for key in KEYS)
    except JobError:
        raise
    except Exception as error:
        # Whatever NumPy and zipfile make of bytes that are no archive; some of it is neither OSError nor ValueError.
        raise JobError(f"data.uri: {uri!r} is not a usable .npz archive: {type(error).__name__}: {error}") from None
    return (x_train, y_train), (x_test, y_test)


def _read(uri: str) -> bytes:
    try:
        with urllib.request.urlopen(uri, timeout=TIMEOUT) as response:
            return _bounded(response, uri)
    except (URLError, OSError, ValueError) as error:
        raise JobError(f"data.uri: {uri!r} cannot be read: {getattr(error, 'reason', error)}") from None


def _bounded(stream: IO[bytes], uri: str) -> bytes:
    data = bytearray()
    while block := stream.read(_BLOCK):
        data += block
        if len(data) > MAX_BYTES:
            raise JobError(f"data.uri: {uri!r} has more than {MAX_BYTES} bytes")
    return bytes(data)


def _tensor(array: np.ndarray) -> Tensor:
    dtype = np.float32 if array.dtype.kind == "f" else np.int64
    if array.dtype.kind not in "fiub":
        raise ValueError(f"arrays hold numbers, not {array.dtype}")
    return torch.from_numpy(np.ascontiguousarray(array, dtype=dtype))
