"""Addresses to join by: tried for ever, because two halves of a swarm may know each other by nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from lepton_p2p.errors import AddressError
from lepton_p2p.identity import PeerInfo, join_address, split_address
from lepton_p2p.membership.beliefs import Beliefs
from lepton_p2p.membership.config import SwimConfig
from lepton_p2p.membership.events import SeedAnswered, SeedSilent
from lepton_p2p.membership.messages import Sync
from lepton_p2p.membership.outbox import Outbox
from lepton_p2p.membership.randomness import Randomness
from lepton_p2p.membership.table import Table


class _Mood(Enum):
    UNKNOWN = auto()
    ANSWERED = auto()
    SILENT = auto()


@dataclass(slots=True)
class _Seed:
    address: str
    sequence: int
    remembered: bool
    """From disk, not from the user: of no interest any more once the swarm is found."""
    mood: _Mood = _Mood.UNKNOWN
    attempts: int = 0


class Seeds:
    """Sends a full exchange to each seed until a live member has its address.

    A seed known by another name than it advertises (a host name) is recognised by the sequence that its answer
    repeats, and is tried now and then even so: the name may lead elsewhere tomorrow.
    """

    def __init__(
        self,
        me: PeerInfo,
        config: SwimConfig,
        rng: Randomness,
        sequences: Iterator[int],
        table: Table,
        beliefs: Beliefs,
        outbox: Outbox,
    ) -> None:
        self._me = me
        self._config = config
        self._rng = rng
        self._sequences = sequences
        self._table = table
        self._beliefs = beliefs
        self._outbox = outbox
        self._seeds: dict[str, _Seed] = {}

    def start(self, now: float, seeds: Sequence[str], known: Sequence[PeerInfo]) -> None:
        """Try all at once; :class:`AddressError` for a seed that is not an address (a bad ``known`` is skipped)."""
        for text in seeds:
            self._add(join_address(*split_address(text)), remembered=False)
        for peer in known:
            try:
                self._add(join_address(*split_address(peer.address)), remembered=True)
            except AddressError:
                continue
        for seed in list(self._seeds.values()):
            self._try(now, seed)

    def timer(self, now: float, address: str) -> None:
        """Time to look after the seed at ``address`` again."""
        seed = self._seeds.get(address)
        if seed is None:
            return
        if seed.remembered and self._table.live_count:
            del self._seeds[address]
        elif self._table.live_at(address):
            self._answered(now, seed)
        else:
            if seed.attempts:
                self._silent(seed)
            self._try(now, seed)

    def heard(self, now: float, sender: PeerInfo, sequence: int = 0) -> None:
        """A packet came from ``sender``, perhaps the answer with ``sequence`` to an attempt.

        It counts once the sender is a live member: until its word is proven (where claims are signed) nobody above
        knows of it, and whoever waits for the seeds to answer would go on as if it were not there.
        """
        view = self._table.get(sender.id)
        if view is None or not view.live:
            return
        seed = self._seeds.get(sender.address) or self._by_sequence(sequence)
        if seed is not None and (seed.attempts or seed.mood is not _Mood.ANSWERED):
            self._answered(now, seed)

    def is_me(self, sequence: int) -> None:
        """An attempt came back to its sender: that seed is this peer under another name."""
        seed = self._by_sequence(sequence)
        if seed is not None:
            del self._seeds[seed.address]
            self._outbox.cancel_timer(("seed", seed.address))

    def undelivered(self, address: str, sequence: int) -> None:
        """An attempt was refused."""
        seed = self._seeds.get(address)
        if seed is not None and seed.sequence == sequence and seed.attempts and not seed.remembered:
            self._silent(seed)

    def lost(self, now: float, address: str) -> None:
        """The member at ``address`` is gone; if a seed was there, begin to try it again."""
        seed = self._seeds.get(address)
        if seed is not None:
            seed.attempts = 0
            self._outbox.set_timer(("seed", address), now + self._jittered(self._config.seed_retry_min))

    def _add(self, address: str, *, remembered: bool) -> None:
        if address != self._me.address and address not in self._seeds:
            self._seeds[address] = _Seed(address, next(self._sequences), remembered)

    def _by_sequence(self, sequence: int) -> _Seed | None:
        return next((seed for seed in self._seeds.values() if seed.sequence == sequence), None)

    def _try(self, now: float, seed: _Seed) -> None:
        # 2^32 times any sensible minimum is above any sensible maximum: the exponent need not grow without end.
        delay = min(self._config.seed_retry_max, self._config.seed_retry_min * 2 ** min(seed.attempts, 32))
        seed.attempts += 1
        self._outbox.send_blind(seed.address, Sync(self._beliefs.facts(), reply=True, sequence=seed.sequence))
        self._outbox.set_timer(("seed", seed.address), now + self._jittered(delay))

    def _answered(self, now: float, seed: _Seed) -> None:
        seed.attempts = 0
        self._outbox.set_timer(("seed", seed.address), now + self._jittered(self._config.reconnect_interval))
        if seed.mood is not _Mood.ANSWERED:
            seed.mood = _Mood.ANSWERED
            self._outbox.emit(SeedAnswered(seed.address))

    def _silent(self, seed: _Seed) -> None:
        if seed.mood is not _Mood.SILENT:
            seed.mood = _Mood.SILENT
            self._outbox.emit(SeedSilent(seed.address))

    def _jittered(self, seconds: float) -> float:
        return seconds * (0.75 + self._rng.random() / 2)
