"""The environment of whoever runs the tests decides nothing."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def no_options_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("LEPTON_"):
            monkeypatch.delenv(name)
