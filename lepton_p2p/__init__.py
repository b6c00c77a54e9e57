"""lepton_p2p: decentralised PyTorch training between peers, with no coordinator and no silent loss.

``import lepton_p2p as lp``; everything a program needs is in this module.  Names are imported when they are first
used: the command line's ``status`` does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from lepton_p2p._version import __version__

if TYPE_CHECKING:
    from lepton_p2p.blocking import Swarm, init_distributed, initdistributed
    from lepton_p2p.client import Client, connect
    from lepton_p2p.errors import (
        AddressError,
        Closed,
        ConfigError,
        CredentialsRefused,
        Dropped,
        InsecureRefused,
        IntegrityError,
        JobError,
        JobMismatch,
        LeptonError,
        PortInUse,
        ProtocolMismatch,
        Revoked,
        RoundRejected,
        SchemaMismatch,
        StateLost,
        SwarmUnreachable,
        WaitTimeout,
        WrongSwarm,
    )
    from lepton_p2p.identity import PeerId, PeerInfo
    from lepton_p2p.jobs import Job, load_job, parse_job
    from lepton_p2p.models import Built
    from lepton_p2p.peer import Gathered, Peer
    from lepton_p2p.rounds.aggregation import Aggregation
    from lepton_p2p.rounds.result import Lost, RoundResult
    from lepton_p2p.transport.values import MemberStatus as Member
    from lepton_p2p.transport.values import StatusReport, SwarmEvent

__all__ = [
    "AddressError",
    "Aggregation",
    "Built",
    "Client",
    "Closed",
    "ConfigError",
    "CredentialsRefused",
    "Dropped",
    "Gathered",
    "InsecureRefused",
    "IntegrityError",
    "Job",
    "JobError",
    "JobMismatch",
    "LeptonError",
    "Lost",
    "Member",
    "Peer",
    "PeerId",
    "PeerInfo",
    "PortInUse",
    "ProtocolMismatch",
    "Revoked",
    "RoundRejected",
    "RoundResult",
    "SchemaMismatch",
    "StateLost",
    "StatusReport",
    "Swarm",
    "SwarmEvent",
    "SwarmUnreachable",
    "WaitTimeout",
    "WrongSwarm",
    "__version__",
    "connect",
    "init_distributed",
    "initdistributed",
    "load_job",
    "parse_job",
]

_HOME = {
    "AddressError": ("errors", "AddressError"),
    "Aggregation": ("rounds.aggregation", "Aggregation"),
    "Built": ("models", "Built"),
    "Client": ("client", "Client"),
    "Closed": ("errors", "Closed"),
    "ConfigError": ("errors", "ConfigError"),
    "CredentialsRefused": ("errors", "CredentialsRefused"),
    "Dropped": ("errors", "Dropped"),
    "Gathered": ("peer", "Gathered"),
    "InsecureRefused": ("errors", "InsecureRefused"),
    "IntegrityError": ("errors", "IntegrityError"),
    "Job": ("jobs", "Job"),
    "JobError": ("errors", "JobError"),
    "JobMismatch": ("errors", "JobMismatch"),
    "LeptonError": ("errors", "LeptonError"),
    "Lost": ("rounds.result", "Lost"),
    "Member": ("transport.values", "MemberStatus"),
    "Peer": ("peer", "Peer"),
    "PeerId": ("identity", "PeerId"),
    "PeerInfo": ("identity", "PeerInfo"),
    "PortInUse": ("errors", "PortInUse"),
    "ProtocolMismatch": ("errors", "ProtocolMismatch"),
    "Revoked": ("errors", "Revoked"),
    "RoundRejected": ("errors", "RoundRejected"),
    "RoundResult": ("rounds.result", "RoundResult"),
    "SchemaMismatch": ("errors", "SchemaMismatch"),
    "StateLost": ("errors", "StateLost"),
    "StatusReport": ("transport.values", "StatusReport"),
    "Swarm": ("blocking", "Swarm"),
    "SwarmEvent": ("transport.values", "SwarmEvent"),
    "SwarmUnreachable": ("errors", "SwarmUnreachable"),
    "WaitTimeout": ("errors", "WaitTimeout"),
    "WrongSwarm": ("errors", "WrongSwarm"),
    "connect": ("client", "connect"),
    "init_distributed": ("blocking", "init_distributed"),
    "initdistributed": ("blocking", "initdistributed"),
    "load_job": ("jobs", "load_job"),
    "parse_job": ("jobs", "parse_job"),
}
"""Public name -> (module, name there)."""


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'lepton_p2p' has no attribute {name!r}")
    module, attribute = _HOME[name]
    value: object = getattr(import_module(f"lepton_p2p.{module}"), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
