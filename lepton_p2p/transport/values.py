"""What the control plane's calls take and return, as plain values (membership, rounds and links have their own)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.membership.messages import Status

NO_VALUES: Mapping[str, float] = MappingProxyType({})
"""An empty map that nobody can fill."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor in a flat state: ``dtype`` is torch's name without prefix, ``offset`` and ``nbytes`` in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """A flat state of bytes that can be fetched over a link under ``(kind, round)``.

    ``chunk_digests``: sha256 (32 bytes) of each piece of ``chunk_bytes``, the last one may be shorter.
    ``meta_json``: scalars and options.  ``digest``: sha256 (32 bytes) of the whole description, on which the
    members agree.
    """

    kind: str
    round: int
    tensors: tuple[TensorSpec, ...]
    total_bytes: int
    chunk_bytes: int
    chunk_digests: tuple[bytes, ...]
    meta_json: bytes
    digest: bytes


@dataclass(frozen=True, slots=True)
class ResultInfo:
    """The result of ``round`` as a member keeps it; ``records`` (encoded) are in the order of ``members``.

    ``digest``: 64-bit hash of the result's ``nbytes`` bytes.  ``attempts``: how often the ring ran.
    """

    round: int
    epoch_number: int
    epoch_tag: int
    members: tuple[PeerId, ...]
    records: tuple[bytes, ...]
    digest: int
    nbytes: int
    attempts: int


@dataclass(frozen=True, slots=True)
class JobDocument:
    """A job as it travels: ``json`` (at most 1 MiB, not yet validated) and its lowercase hex sha256 ``digest``."""

    json: bytes
    digest: str


@dataclass(frozen=True, slots=True)
class OfferReply:
    """The answer to a job: ``reason`` says why it was not accepted."""

    accepted: bool
    reason: str = ""


class Phase(StrEnum):
    """What a peer does."""

    IDLE = "idle"
    JOINING = "joining"
    TRAINING = "training"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """One line of a peer's view; ``in_epoch``: in the current epoch of the peer that answers.

    ``node``, ``node_name``: the machine's id and name, proved by certificates; empty if there are none, or none were
    seen yet.
    """

    peer: PeerInfo
    status: Status
    incarnation: int = 0
    in_epoch: bool = False
    node: str = ""
    node_name: str = ""


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """A peer's last checkpoint: ``step`` of the training, ``age`` and ``seconds`` that writing took, ``size`` in bytes.

    failures: how many could not be written since.  With ``size`` 0 there is no checkpoint.
    """

    step: int = 0
    age: float = 0.0
    seconds: float = 0.0
    size: int = 0
    failures: int = 0


@dataclass(frozen=True, slots=True)
class StatusReport:
    """What a peer knows and does now.

    epoch: number of the current one (0: none).  round: last decided.  step: optimizer steps taken.  data_pass:
    passes over the data begun.  loss: mean training loss of the last step (None: no step yet).
    samples_per_second: of the whole swarm.  metrics: last evaluation, by name.  params_digest: hex, equal on
    all members ("": none yet).  job_digest, job_name: "" without a job.  uptime: seconds since the start.
    last_recovery_seconds: from the last broken attempt to the next decided round (None: nothing broke yet).
    checkpoint: None if there is none, and none could not be written.  claims_refused: membership claims of others that
    were dropped, because a signature did not hold or its maker is no member.
    """

    peer: PeerInfo
    version: str
    swarm: str
    phase: Phase = Phase.IDLE
    members: tuple[MemberStatus, ...] = ()
    epoch: int = 0
    round: int = 0
    step: int = 0
    data_pass: int = 0
    loss: float | None = None
    samples_per_second: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=lambda: NO_VALUES)
    rounds_done: int = 0
    rounds_retried: int = 0
    rounds_lost: int = 0
    params_digest: str = ""
    job_digest: str = ""
    job_name: str = ""
    uptime: float = 0.0
    last_recovery_seconds: float | None = None
    checkpoint: CheckpointInfo | None = None
    claims_refused: int = 0


@dataclass(frozen=True, slots=True)
class SwarmEvent:
    """Something that happened: ``time`` in seconds since 1970 (UTC), ``kind`` a word ("joined", "round", ...),
    ``peer`` the id that it is about ("": none), ``text`` one readable line, ``values`` its numbers.
    """

    time: float
    kind: str
    peer: str = ""
    text: str = ""
    values: Mapping[str, float] = field(default_factory=lambda: NO_VALUES)
