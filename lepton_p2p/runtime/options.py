"""What a peer is started with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lepton_p2p.durability import Durability
from lepton_p2p.errors import ConfigError
from lepton_p2p.membership import SwimConfig
from lepton_p2p.rounds.config import MOST_MEMBERS, AgreementConfig, Partitions
from lepton_p2p.rounds.patience import PatienceConfig


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """listen: ``host:port`` of the control plane (port 0: any free one).  data_port: of the links, on the same host.

    join: addresses of peers of the swarm, tried for ever; none: this peer may found a swarm.  swarm: the id that
    all peers and clients must name.  insecure: allow a non-loopback address although there are no credentials.
    advertise: what others are told to call (default: derived).  state_dir: where the last known members and
    checkpoints are kept, and in ``keys`` below it this machine's credentials, unless keys names another folder.
    token: to get some (see ``runtime.admission``).  durability: how checkpoints are kept.  min_peers: how many must be
    there before the first round.  partitions: what a side of a split swarm does.
    share_memory: give tensors to peers on this machine through memory that both share, not through sockets.
    sealed: what goes over links is sealed also without credentials (for tests: the control plane must be trusted).
    """

    listen: str = "127.0.0.1:0"
    join: Sequence[str] = ()
    swarm: str = "lepton"
    insecure: bool = False
    advertise: str | None = None
    data_port: int = 0
    state_dir: Path | None = None
    keys: Path | None = None
    token: str | None = field(default=None, repr=False)
    durability: Durability = field(default_factory=Durability)
    partitions: Partitions = "continue"
    min_peers: int = 1
    share_memory: bool = True
    sealed: bool = False
    swim: SwimConfig = field(default_factory=SwimConfig.lan)
    patience: PatienceConfig = field(default_factory=PatienceConfig.lan)
    agreement: AgreementConfig = field(default_factory=AgreementConfig.lan)

    def __post_init__(self) -> None:
        if not 0 <= self.data_port <= 65535:
            raise ConfigError(f"data_port is a TCP port, or 0 for any free one, not {self.data_port}")
        if not 1 <= self.min_peers <= MOST_MEMBERS:
            raise ConfigError(f"min_peers is from 1 to {MOST_MEMBERS}, not {self.min_peers}")

    @property
    def keys_folder(self) -> Path | None:
        """Where this machine's credentials are, or will be; None: nowhere, they last as long as the process."""
        if self.keys is not None or self.state_dir is None:
            return self.keys
        return self.state_dir / "keys"

    @property
    def call_timeout(self) -> float:
        """Seconds for one control call to a live peer: as long as the agreement waits for a promise."""
        return self.agreement.promise_timeout
