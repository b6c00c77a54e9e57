"""What a virtual process fetches from others: results that it missed, and the state with its manifest and chunks."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from lepton_p2p.identity import PeerInfo
from lepton_p2p.rounds.epoch import Epoch
from lepton_p2p.simulation.fetching import NOT_KEPT, Answer, Piece
from lepton_p2p.simulation.network import Network
from lepton_p2p.simulation.rounds import Kept

if TYPE_CHECKING:
    from lepton_p2p.simulation.peer import VirtualPeer

_SLOWEST = 0.05
"""Seconds that a chunk takes at most beside the call."""


class Transfers:
    """Those of ``peer``."""

    def __init__(self, peer: VirtualPeer, network: Network, rng: random.Random) -> None:
        self._peer, self._network, self._rng = peer, network, rng

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Run ``call`` in the process in ``seconds``."""
        self._peer.later(seconds, call)

    def now(self) -> float:
        """The world's time."""
        return self._peer.now()

    def epoch(self) -> Epoch | None:
        """The epoch that it is in."""
        return self._peer.agreement.epoch

    def choose(self, peers: list[PeerInfo]) -> PeerInfo:
        """Any of them."""
        return self._rng.choice(peers)

    def result(self, holder: PeerInfo, round: int, got: Callable[[Kept | None], None]) -> None:
        """Ask ``holder`` for the result of ``round``."""
        found: list[Kept | None] = []

        def look(peer: VirtualPeer) -> None:
            kept = peer.rounds.kept
            found.append(self._damaged(kept) if kept is not None and kept.round == round else None)

        self._peer.call(holder.address, look, lambda ok: got(found[-1] if ok and found else None), holder.id)

    def _damaged(self, kept: Kept) -> Kept:
        """As it arrives."""
        network = self._network
        if network.weather.flips and network.rng.random() < 20 * network.weather.flips:
            network.counts["flip"] += 1
            numbers = (kept.sum.numbers[0] ^ 1, *kept.sum.numbers[1:])
            return replace(kept, sum=replace(kept.sum, numbers=numbers))
        return kept

    def completed(self) -> int:
        """The last decided round."""
        return self._peer.agreement.progress.completed

    def describe(self, donor: PeerInfo, round: int, got: Callable[[Answer], None]) -> None:
        """Ask ``donor`` for the manifest of what it keeps of ``round``."""
        found: list[Answer] = []
        self._peer.call(
            donor.address,
            lambda peer: found.append(peer.trainer.keeping.get(round) or NOT_KEPT),
            lambda ok: got(found[-1] if ok and found else None),
            donor.id,
        )

    def pull(self, donor: PeerInfo, round: int, index: int, got: Callable[[Piece | None], None]) -> None:
        """Fetch one chunk; it takes its time."""
        found: list[bool] = []

        def ended(ok: bool) -> None:
            network = self._network
            bad = bool(network.weather.flips) and network.rng.random() < 20 * network.weather.flips
            piece = Piece(index, damaged=bad) if ok and found and found[-1] else None
            if bad:
                network.counts["flip"] += 1
            self.later(_SLOWEST * network.rng.random(), lambda: got(piece))

        self._peer.call(
            donor.address, lambda peer: found.append(peer.trainer.keeping.get(round) is not None), ended, donor.id
        )
