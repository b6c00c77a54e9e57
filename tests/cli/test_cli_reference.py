"""The page of options says what the code says."""

from __future__ import annotations

from pathlib import Path

from lepton_p2p.cli.reference import options_page
from lepton_p2p.config import PeerSettings

PAGE = Path(__file__).parent.parent.parent / "docs" / "options.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == options_page(), "run: make docs"


def test_every_option_and_every_value_of_the_presets_is_on_it() -> None:
    page = options_page()
    for name in PeerSettings.model_fields:
        assert f"## `--{name.replace('_', '-')}`" in page
    for key in ("probe_interval", "floor", "promise_timeout"):
        assert f"| `{key}` |" in page
        assert f"- **{key}**" in page
