"""One peer per state directory: two would overwrite each other's checkpoints and notes."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lepton_p2p.errors import ConfigError

NAME = "lock"
_taken: set[Path] = set()
"""By this process: the system's lock only keeps out others."""


@contextmanager
def locked(folder: Path | None) -> Iterator[None]:
    """Make ``folder`` and hold it; :class:`ConfigError` if another peer does, or if it cannot be made.

    The lock is of the process (POSIX), so that forked children, which may outlive a killed peer for a moment, do not
    hold it; it ends with the process however that ends.
    """
    if folder is None:
        yield
        return
    used = f"the state directory {folder} is used by another peer on this machine: give each peer its own --state-dir"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        place = folder.resolve()
        if place in _taken:
            raise ConfigError(used)
        handle = os.open(place / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigError(f"the state directory {folder} cannot be used: {error.strerror}") from None
    try:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise ConfigError(used) from None
        except OSError as error:
            raise ConfigError(f"the state directory {folder} cannot be locked: {error.strerror}") from None
        _taken.add(place)
        try:
            yield
        finally:
            _taken.discard(place)
    finally:
        os.close(handle)
