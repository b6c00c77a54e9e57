"""Training: strategies, sampler, snapshots and the loop that runs them in a thread of its own."""

from lepton_p2p.replication.cursor import Cursor
from lepton_p2p.training.alone import train_alone
from lepton_p2p.training.assembler import Assembler
from lepton_p2p.training.collective import Collective, PairExchange, StateSource
from lepton_p2p.training.loop import Progress, Trainer
from lepton_p2p.training.manifest import Manifest, TensorSpec
from lepton_p2p.training.sampler import Sampler
from lepton_p2p.training.snapshots import Snapshot, capture, restore
from lepton_p2p.training.state import Schema, digest_text, params_digest
from lepton_p2p.training.store import SnapshotStore

__all__ = [
    "Assembler",
    "Collective",
    "Cursor",
    "Manifest",
    "PairExchange",
    "Progress",
    "Sampler",
    "Schema",
    "Snapshot",
    "SnapshotStore",
    "StateSource",
    "TensorSpec",
    "Trainer",
    "capture",
    "digest_text",
    "params_digest",
    "restore",
    "train_alone",
]
