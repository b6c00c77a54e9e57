"""The losses that a job may name: mean over the samples of a batch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lepton_p2p.models.registry import Registry

LOSSES: Registry[Tensor] = Registry("loss")


@LOSSES.add("cross_entropy")
def cross_entropy(prediction: Tensor, target: Tensor) -> Tensor:
    """Logits (n, classes) float against class numbers (n,) int64."""
    return F.cross_entropy(prediction, target)


@LOSSES.add("mse")
def mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Squared difference of two tensors of one shape; (n, 1) and (n,) are the same shape here."""
    # Broadcasting (n, 1) against (n,) would silently compare every sample with every other.
    return F.mse_loss(prediction.reshape(target.shape), target)


@LOSSES.add("bce")
def bce(prediction: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy of logits against targets 0 or 1 (integer or float) of the same number of elements."""
    return F.binary_cross_entropy_with_logits(prediction.reshape(target.shape), target.to(prediction.dtype))
