"""File systems that are full soon."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_file_system(folder: Path, kib: int) -> Iterator[Path]:
    """One of ``kib`` KiB, mounted at ``folder``; skips the test where that cannot be done."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(file: Path) -> None:
    """Add to ``file`` until there is no room."""
    with contextlib.suppress(OSError), file.open("ab", buffering=0) as opened:
        while True:
            opened.write(bytes(512))
