"""Checkpoints: the whole state of a training on disk, so that it survives the death of all peers at once."""

from lepton_p2p.training.checkpoints.folder import Checkpoint, Checkpoints
from lepton_p2p.training.checkpoints.keeper import Keeper, Written
from lepton_p2p.training.checkpoints.mark import Mark, MarkFile
from lepton_p2p.training.checkpoints.record import Place, Record, place_of
from lepton_p2p.training.checkpoints.upkeep import Upkeep

__all__ = [
    "Checkpoint",
    "Checkpoints",
    "Keeper",
    "Mark",
    "MarkFile",
    "Place",
    "Record",
    "Upkeep",
    "Written",
    "place_of",
]
