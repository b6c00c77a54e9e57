"""Flat images of a model's floating-point tensors, in preallocated memory, for exchange with partners."""

from __future__ import annotations

import math
from collections import deque

import torch
from torch import Tensor, nn

from lepton_p2p.training.manifest import lay_out
from lepton_p2p.training.snapshots import views
from lepton_p2p.training.state import model_tensors, raw


class Image:
    """One preallocated copy: ``data`` (flat uint8) and ``tensors``, views of it in the model's order."""

    def __init__(self, like: list[tuple[str, Tensor]]) -> None:
        table, size = lay_out(like)
        self.data = torch.zeros(size, dtype=torch.uint8)
        self.tensors = list(views(table, self.data).values())

    @property
    def memory(self) -> memoryview:
        return self.data.numpy().data

    def finite(self) -> bool:
        """Whether all values are; the sum is a fast first look, since NaN and Inf survive it."""
        return all(bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all()) for tensor in self.tensors)


class Images:
    """``count`` images of ``model``, taken and given back; not thread-safe, the owner holds its lock."""

    def __init__(self, model: nn.Module, count: int) -> None:
        self._live = [(name, tensor) for name, tensor in model_tensors(model) if tensor.is_floating_point()]
        self._free = deque(Image(self._live) for _ in range(count))

    @property
    def nbytes(self) -> int:
        """Of one image."""
        return lay_out(self._live)[1]

    def take(self) -> Image | None:
        """A free image, if there is one."""
        return self._free.popleft() if self._free else None

    def give_back(self, image: Image) -> None:
        self._free.append(image)

    def copy_model(self, image: Image) -> None:
        """The model's values into ``image``."""
        for (_, tensor), room in zip(self._live, image.tensors, strict=True):
            room.view(-1).view(torch.uint8).copy_(raw(tensor))

    def distance(self, image: Image) -> float:
        """How far the image is from the model, relative to the model: ``|image - model| / |model|`` (2-norm)."""
        apart = size = 0.0
        with torch.no_grad():
            for (_, tensor), value in zip(self._live, image.tensors, strict=True):
                own = tensor.to("cpu", torch.float32)
                apart += float((value.to(torch.float32) - own).square_().sum())
                size += float(own.square().sum())
        return math.sqrt(apart / size) if size else 0.0

    def mix_into_model(self, image: Image, share: float) -> None:
        """model = (1 - share) * model + share * image; with share 1 exactly the image."""
        with torch.no_grad():
            for (_, tensor), value in zip(self._live, image.tensors, strict=True):
                if share >= 1.0:
                    tensor.copy_(value)
                else:
                    tensor.lerp_(value.to(tensor.device), share)
