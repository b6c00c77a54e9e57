"""The headers of gossip messages."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from lepton_p2p.identity import PeerId

VERSION = 2
MAX_COUNTS = 1024
"""Entries of the sample counter that travel; the smallest are left out beyond that."""
_HEAD = struct.Struct("!BBQQQdH")
_ENTRY = struct.Struct("!16sQ")


class Kind(IntEnum):
    """What a message is."""

    TRANSFER = 0
    """Half of my weight, with the tensors."""
    CLAIM = 1
    """I hold your transfer ``id`` as my ``hold``: is it mine?"""
    ASK = 2
    """I have no weight; push to me.  Answered with whether the asked peer has any."""
    COUNTS = 3
    """Only the counter."""


@dataclass(frozen=True, slots=True)
class Header:
    """``counts``: samples used by each peer so far, as the sender knows (a G-counter: merged by maximum).

    id, weight, founding: of a transfer.  hold: see ``Kind.CLAIM``.
    """

    kind: Kind
    id: int = 0
    hold: int = 0
    weight: float = 0.0
    counts: Mapping[PeerId, int] = field(default_factory=dict)
    founding: int = 0

    def encode(self) -> bytes:
        """At most 36 + 24 * ``MAX_COUNTS`` bytes."""
        entries = sorted(self.counts.items(), key=lambda entry: -entry[1])[:MAX_COUNTS]
        head = _HEAD.pack(VERSION, self.kind, self.id, self.hold, self.founding, self.weight, len(entries))
        return head + b"".join(_ENTRY.pack(bytes.fromhex(peer), count) for peer, count in entries)

    @classmethod
    def decode(cls, data: bytes) -> Header:
        """Read what ``encode`` wrote; ``ValueError`` for anything else (bytes come from the network)."""
        if len(data) < _HEAD.size:
            raise ValueError("a gossip header is too short")
        version, kind, number, hold, founding, weight, count = _HEAD.unpack_from(data)
        if version != VERSION or kind > max(Kind) or count > MAX_COUNTS:
            raise ValueError(f"not a gossip header of version {VERSION}")
        if len(data) != _HEAD.size + count * _ENTRY.size:
            raise ValueError(f"a gossip header announces {count} entries and has {len(data)} bytes")
        if not 0.0 <= weight < float("inf"):
            raise ValueError(f"a weight is finite and at least 0, not {weight}")
        counts = {PeerId(peer.hex()): samples for peer, samples in _ENTRY.iter_unpack(data[_HEAD.size :])}
        return cls(Kind(kind), number, hold, weight, counts, founding)


class Counter:
    """Samples used by every peer: grows only, merges by maximum, so that any order of messages gives the same."""

    def __init__(self, me: PeerId) -> None:
        self._me = me
        self._counts: dict[PeerId, int] = {}

    def add(self, samples: int) -> None:
        """This peer has used so many more."""
        self._counts[self._me] = self._counts.get(self._me, 0) + samples

    def merge(self, counts: Mapping[PeerId, int], limit: int) -> None:
        """Take over what is larger, up to ``limit``: a liar can end the training, not break it."""
        for peer, count in counts.items():
            # Nobody else knows better than this peer what it has used itself.
            if peer != self._me and count > self._counts.get(peer, 0):
                self._counts[peer] = min(count, limit)

    @property
    def total(self) -> int:
        return sum(self._counts.values())

    def snapshot(self) -> dict[PeerId, int]:
        """A copy."""
        return dict(self._counts)
