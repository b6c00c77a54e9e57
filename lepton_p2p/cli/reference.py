"""The reference page of a peer's options, written from :class:`PeerSettings` so that it cannot be wrong."""

from __future__ import annotations

import dataclasses
import inspect
import re

from lepton_p2p.config import PeerSettings
from lepton_p2p.membership.config import SwimConfig
from lepton_p2p.rounds.config import AgreementConfig
from lepton_p2p.rounds.patience import PatienceConfig

_HEAD = """# Options of a peer

Written by `make docs`; a test keeps it current.

Every option can be given in four places; the first that has it wins:

1. on the command line: `--state-dir /var/lib/lepton`
2. in the environment: `LEPTON_STATE_DIR=/var/lib/lepton` (lists with commas; `LEPTON_SWIM__PROBE_INTERVAL=0.5`)
3. in a TOML file, named by `--config` or `LEPTON_CONFIG`: `state_dir = "/var/lib/lepton"`, in a table `[lepton]` or at
   the top level; relative paths start at the file's folder
4. in the preset (the time-outs)
"""


def options_page() -> str:
    """docs/options.md."""
    parts = [_HEAD]
    for name, field in PeerSettings.model_fields.items():
        parts.append(f"## `--{name.replace('_', '-')}`\n\n{field.description}\n")
    for option, knobs in (("swim", SwimConfig), ("patience", PatienceConfig), ("agreement", AgreementConfig)):
        parts.append(_knobs(option, knobs))
    return "\n".join(parts)


def _knobs(option: str, knobs: type[SwimConfig] | type[PatienceConfig] | type[AgreementConfig]) -> str:
    """The values of the presets in a table, then what each is, from the class's own words."""
    presets = {"local": knobs.local(), "lan": knobs.lan(), "wan": knobs.wan()}
    lines = [f"## Values of `--{option}`", "", "| key | local | lan | wan |", "| --- | --- | --- | --- |"]
    for field in dataclasses.fields(knobs):
        values = " | ".join(f"{getattr(preset, field.name):g}" for preset in presets.values())
        lines.append(f"| `{field.name}` | {values} |")
    for paragraph in _paragraphs(knobs):
        lines += ["", paragraph]
    return "\n".join([*lines, ""])


def _paragraphs(knobs: type) -> list[str]:
    """The docstring with a list item for each key that it explains."""
    text = inspect.cleandoc(knobs.__doc__ or "").replace("``", "`")
    names = "|".join(field.name for field in dataclasses.fields(knobs))
    text = re.sub(rf"^((?:{names})(?:, (?:{names}))*):", r"\n- **\1**:", text, flags=re.MULTILINE)
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", text) if part.strip()]
