"""Who is alive: SWIM with Lifeguard as a pure state machine (no asyncio, grpc, torch, time or random)."""

from lepton_p2p.membership.config import SwimConfig
from lepton_p2p.membership.events import (
    DeclaredDead,
    Died,
    Effect,
    Joined,
    Left,
    Refused,
    SeedAnswered,
    SeedSilent,
    Suspected,
    SwimEvent,
    Trusted,
)
from lepton_p2p.membership.messages import (
    Ack,
    Body,
    Gossip,
    Nack,
    Packet,
    Ping,
    PingRequest,
    Rumour,
    Status,
    Sync,
)
from lepton_p2p.membership.notary import Notary, Verdict
from lepton_p2p.membership.randomness import Randomness
from lepton_p2p.membership.swim import Swim
from lepton_p2p.membership.table import MemberView, Table

__all__ = [
    "Ack",
    "Body",
    "DeclaredDead",
    "Died",
    "Effect",
    "Gossip",
    "Joined",
    "Left",
    "MemberView",
    "Nack",
    "Notary",
    "Packet",
    "Ping",
    "PingRequest",
    "Randomness",
    "Refused",
    "Rumour",
    "SeedAnswered",
    "SeedSilent",
    "Status",
    "Suspected",
    "Swim",
    "SwimConfig",
    "SwimEvent",
    "Sync",
    "Table",
    "Trusted",
    "Verdict",
]
