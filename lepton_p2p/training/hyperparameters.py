"""The numbers in an optimizer's parameter groups (learning rate, momentum ...): the same on all members in every step.

A program changes them as it likes, mostly by a learning rate scheduler of its own.  Schedulers of different peers need
not be at the same point (one joined late, one had no batch in the last step), and two learning rates would mean two
models.  So one member, the *leader*, says in the round what they are; the others take its numbers.  Where members do
not trust each other, they vote: each says what its groups hold, and the median is taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

_PARTS = 4
_BASE = 1 << 16
"""A float64 travels as four 16-bit integers.  Weighted means of zeros and one leader's integers, divided by the mean
of its flag, are those integers to within 1e-11, and are rounded back exactly."""

_INFINITE = torch.finfo(torch.float64).max
"""Stands for infinity in a vote, in which everything is finite."""

_Place = tuple[int, str, int]


class Hyperparameters:
    """``agreed`` are the numbers of the last step; what the groups hold otherwise is this peer's proposal.

    ``voted``: nobody leads; the rounds make a median of what those bring that contribute.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, *, voted: bool = False) -> None:
        self._optimizer, self._voted = optimizer, voted
        self._places = tuple(_places(optimizer))
        self.agreed = self._read()
        self._proposed = self.agreed

    @property
    def size(self) -> int:
        """Elements (float64) of the tensor in which they travel."""
        return 1 + (1 if self._voted else _PARTS) * len(self._places)

    def propose(self, into: Tensor, *, leading: bool) -> None:
        """Remember what the groups hold, put back what is agreed, and fill ``into``.

        With zeros unless ``leading``; in a vote that does not matter.
        """
        if tuple(_places(self._optimizer)) != self._places:
            raise RuntimeError(
                "the optimizer's parameter groups have other options than in the first step: create learning rate "
                "schedulers before it"
            )
        self._proposed = self._read()
        self._write(self.agreed)
        into.zero_()
        if self._voted:
            into[0] = 1.0
            into[1:] = torch.tensor(self._proposed, dtype=torch.float64).clamp(-_INFINITE, _INFINITE)
        elif leading:
            bits = torch.tensor(self._proposed, dtype=torch.float64).view(torch.int16).to(torch.int64) % _BASE
            into[0] = 1.0
            into[1:] = bits.to(torch.float64)

    def settle(self, averaged: Tensor) -> None:
        """Make the leader's numbers, or those voted for, the agreed ones; without any they stay what they were."""
        flag = float(averaged[0])
        if flag > 0 and self._voted:
            self.agreed = tuple(math.copysign(math.inf, x) if abs(x) == _INFINITE else x for x in averaged[1:].tolist())
        elif flag > 0:
            bits = (averaged[1:] / flag).round().to(torch.int64)
            self.agreed = tuple(bits.to(torch.int16).view(torch.float64).tolist())
        self._write(self.agreed)

    def take_back(self) -> None:
        """There was no step: let the groups hold again what the program had set."""
        self._write(self._proposed)

    def adopt(self) -> None:
        """The groups were restored from a snapshot: what they hold is agreed."""
        self.agreed = self._proposed = self._read()

    def _read(self) -> tuple[float, ...]:
        groups = self._optimizer.param_groups
        return tuple(float(_at(groups[group][key], index)) for group, key, index in self._places)

    def _write(self, numbers: tuple[float, ...]) -> None:
        groups = self._optimizer.param_groups
        for (group, key, index), number in zip(self._places, numbers, strict=True):
            own = groups[group][key]
            if index < 0:
                groups[group][key] = _like(own, number)
            elif own[index] != number:
                changed = [_like(item, number) if at == index else item for at, item in enumerate(own)]
                groups[group][key] = type(own)(changed)


def _places(optimizer: torch.optim.Optimizer) -> Iterator[_Place]:
    """Where numbers stand: group, key, and index in a tuple or list (-1: it is none)."""
    for number, group in enumerate(optimizer.param_groups):
        for key in sorted(group):
            value = group[key]
            if _is_number(value):
                yield number, key, -1
            elif key != "params" and isinstance(value, tuple | list) and all(map(_is_number, value)):
                yield from ((number, key, index) for index in range(len(value)))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _at(value: Any, index: int) -> Any:
    return value if index < 0 else value[index]


def _like(own: object, number: float) -> int | float:
    return int(number) if isinstance(own, int) and number.is_integer() else number
