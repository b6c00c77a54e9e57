"""Weights for clients: each snapshot under a number of its own, so that no client gets chunks of two."""

from __future__ import annotations

import asyncio

from torch import nn

from lepton_p2p.collectives.fetch import FetchServer, Reader
from lepton_p2p.runtime.bridge import Bridge
from lepton_p2p.runtime.manifests import from_wire
from lepton_p2p.runtime.served_state import WEIGHTS, ServedState
from lepton_p2p.training.snapshots import Snapshot, capture


class Provided(FetchServer):
    """What can be fetched."""

    def __init__(self) -> None:
        self.there: dict[int, bytes] = {}

    def provide(self, kind: str, key: int, reader: Reader) -> None:
        assert kind == WEIGHTS
        self.there[key] = bytes(reader(0, 4))

    def withdraw(self, kind: str, key: int) -> None:
        del self.there[key]


def weights(value: float, *, round: int) -> Snapshot:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, value)
    return capture(model, round=round)


async def test_two_exports_of_one_round_are_told_apart() -> None:
    server = Provided()
    state = ServedState(Bridge(asyncio.get_running_loop()), server)
    step, last = weights(1.0, round=3), weights(2.0, round=3)
    first, second = [await state.describe_weights(snapshot) for snapshot in (step, last)]
    assert first.round != second.round
    assert (server.there[first.round], server.there[second.round]) == (bytes(step.read(0, 4)), bytes(last.read(0, 4)))
    assert from_wire(second).chunk_digests == last.manifest.chunk_digests


async def test_those_who_ask_at_the_same_moment_get_the_same() -> None:
    server = Provided()
    state = ServedState(Bridge(asyncio.get_running_loop()), server)
    snapshot = weights(1.0, round=3)
    assert len({(await state.describe_weights(snapshot)).round for _ in range(3)}) == 1
    assert len(server.there) == 1


async def test_the_last_two_are_kept() -> None:
    server = Provided()
    state = ServedState(Bridge(asyncio.get_running_loop()), server)
    numbers = [(await state.describe_weights(weights(float(n), round=1))).round for n in range(4)]
    assert list(server.there) == numbers[-2:]
