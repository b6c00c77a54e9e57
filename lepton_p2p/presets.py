"""The time-outs that belong together, for the kind of network that the peers are on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from lepton_p2p.errors import ConfigError
from lepton_p2p.identity import split_address
from lepton_p2p.membership.config import SwimConfig
from lepton_p2p.rounds.config import AgreementConfig
from lepton_p2p.rounds.patience import PatienceConfig
from lepton_p2p.transport.addresses import is_loopback

Preset = Literal["local", "lan", "wan"]


@dataclass(frozen=True, slots=True)
class Timings:
    """Everything that a preset decides."""

    swim: SwimConfig
    patience: PatienceConfig
    agreement: AgreementConfig


def timings(preset: Preset) -> Timings:
    """Those of ``preset``; :class:`ConfigError` for another word."""
    if preset not in get_args(Preset):
        raise ConfigError(f"a preset is local, lan or wan, not {preset!r}")
    return Timings(getattr(SwimConfig, preset)(), getattr(PatienceConfig, preset)(), getattr(AgreementConfig, preset)())


def usual_preset(listen: str) -> Preset:
    """What a peer that listens on ``listen`` (``host:port``) uses unless it is told otherwise.

    Whom only this machine can reach has all others on it; between machines nobody is declared dead for a hiccup of
    the network.  ``wan`` has to be asked for: an address does not tell how far away the others are.
    """
    return "local" if is_loopback(split_address(listen)[0]) else "lan"
