"""What all tests of the training share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from lepton_p2p.replication import vigil
from lepton_p2p.training import lockstep


@pytest.fixture(autouse=True)
def no_vigil(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has lost the state gives up at once."""
    monkeypatch.setattr(vigil, "PATIENCE", 0.0)
    monkeypatch.setattr(lockstep, "PAUSE", 0.01)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Peers are threads already."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
