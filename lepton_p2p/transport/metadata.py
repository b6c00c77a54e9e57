"""What every call says of itself: the swarm that is meant and the protocol versions that are spoken."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote

from lepton_p2p.errors import ConfigError, LeptonError, ProtocolMismatch, WrongSwarm
from lepton_p2p.transport.wire_common import check_text

PROTOCOL_VERSION: Final = 2
"""What this version of the package speaks best; raised with every change that older peers would misread.

2: in a swarm with credentials membership claims are signed.
"""
MIN_PROTOCOL: Final = 1
"""The oldest version that this package still speaks."""
MIN_SECURED: Final = 2
"""The same, in a swarm with credentials."""

SWARM_KEY: Final = "lepton-swarm"
PROTOCOL_KEY: Final = "lepton-protocol"
OLDEST_KEY: Final = "lepton-protocol-min"
REVOKED_KEY: Final = "lepton-revoked"
"""In answers of a swarm with credentials: the digest of what is revoked, as far as the answering peer knows."""
MAX_SWARM: Final = 256
"""Characters of a swarm id."""

Metadata = Iterable[tuple[str, str | bytes]]
_VERSION = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Hello:
    """One side of a call: its ``swarm``, its ``protocol`` version and the ``oldest`` version that it speaks."""

    swarm: str
    protocol: int = PROTOCOL_VERSION
    oldest: int = MIN_PROTOCOL

    def __post_init__(self) -> None:
        """:class:`ConfigError` if the swarm id could not be read back by others."""
        try:
            check_text(self.swarm, "a swarm's id", MAX_SWARM)
        except ValueError as error:
            raise ConfigError(str(error)) from None

    @classmethod
    def of(cls, swarm: str, *, secured: bool) -> Hello:
        """What this package says in ``swarm``; ``secured``: it has credentials."""
        return cls(swarm, oldest=MIN_SECURED if secured else MIN_PROTOCOL)

    def to_metadata(self) -> tuple[tuple[str, str], ...]:
        """As call metadata; the swarm id is percent-encoded, for metadata is ASCII."""
        return (
            (SWARM_KEY, quote(self.swarm, safe="")),
            (PROTOCOL_KEY, str(self.protocol)),
            (OLDEST_KEY, str(self.oldest)),
        )

    @classmethod
    def from_metadata(cls, metadata: Metadata) -> Hello:
        """Read what ``to_metadata`` wrote; ``ValueError`` (one line) if it is missing or malformed."""
        found = {key: value for key, value in metadata if key in (SWARM_KEY, PROTOCOL_KEY, OLDEST_KEY)}
        swarm, protocol = found.get(SWARM_KEY), found.get(PROTOCOL_KEY)
        oldest = found.get(OLDEST_KEY, protocol)
        if not isinstance(swarm, str) or not isinstance(protocol, str) or not isinstance(oldest, str):
            raise ValueError(f"calls carry the metadata {SWARM_KEY} and {PROTOCOL_KEY}")
        if not _VERSION.fullmatch(protocol) or not _VERSION.fullmatch(oldest):
            raise ValueError(f"{PROTOCOL_KEY} is a decimal number")
        if len(swarm) > 12 * MAX_SWARM:
            raise ValueError(f"{SWARM_KEY} is too long")
        return cls(check_text(unquote(swarm), "a swarm's id", MAX_SWARM), int(protocol), int(oldest))


def mismatch(asked: Hello, caller: Hello, where: str) -> LeptonError | None:
    """Why ``caller`` cannot work with the peer ``asked`` at ``where`` (an address or "this peer"); None if it can.

    Two sides work together if each speaks a version at least as new as the oldest that the other accepts.
    """
    if caller.protocol < asked.oldest:
        return ProtocolMismatch(
            f"{where} speaks protocol {asked.oldest} to {asked.protocol}, the caller only {caller.protocol}: "
            "upgrade lepton_p2p on the caller's side"
        )
    if asked.protocol < caller.oldest:
        return ProtocolMismatch(
            f"{where} speaks only protocol {asked.protocol}, the caller {caller.oldest} to {caller.protocol}: "
            f"upgrade lepton_p2p on that side"
        )
    if asked.swarm != caller.swarm:
        return WrongSwarm(
            f"{where} belongs to swarm {asked.swarm!r}, not to {caller.swarm!r}: "
            f"use --swarm {asked.swarm} or another address"
        )
    return None
