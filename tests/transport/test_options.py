"""gRPC takes options by name and says nothing about a name that it does not know."""

from __future__ import annotations

from pathlib import Path

import pytest
from grpc._cython import cygrpc

from lepton_p2p.transport.options import BULK_OPTIONS, PROBE_OPTIONS, SERVER_OPTIONS

NAMES = sorted({name for name, _ in (*SERVER_OPTIONS, *BULK_OPTIONS, *PROBE_OPTIONS) if name.startswith("grpc.")})


@pytest.fixture(scope="module")
def core() -> bytes:
    """gRPC's own code, in which each name that it looks for is a string."""
    return Path(cygrpc.__file__).read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_grpc_knows_every_option_that_it_is_given(core: bytes, name: str) -> None:
    assert name.encode() + b"\0" in core
