"""What can be trained: registries of models, data sets, losses and optimizers; how a job becomes a `Built`."""

from lepton_p2p.models.build import build, check_file
from lepton_p2p.models.built import Built, LossFn, MakeOptimizer
from lepton_p2p.models.datasets import DATASETS
from lepton_p2p.models.losses import LOSSES
from lepton_p2p.models.networks import MODELS
from lepton_p2p.models.optimizers import OPTIMIZERS
from lepton_p2p.models.python_file import file_digest, run_build
from lepton_p2p.models.registry import BadOption, Registry

__all__ = [
    "DATASETS",
    "LOSSES",
    "MODELS",
    "OPTIMIZERS",
    "BadOption",
    "Built",
    "LossFn",
    "MakeOptimizer",
    "Registry",
    "build",
    "check_file",
    "file_digest",
    "run_build",
]
