"""Signatures of claims, as far as this room knows of them: somebody makes and judges them."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final, Protocol

from lepton_p2p.membership.messages import Rumour, Status

ACCUSATIONS: Final = (Status.SUSPECT, Status.DEAD)
"""What others say of a peer; the rest it says of itself."""


class Verdict(Enum):
    """What a signature is worth."""

    HOLDS = auto()
    UNKNOWN = auto()
    """The signer's key is not known, or it has no (valid) certificate: perhaps nobody lies."""
    FORGED = auto()
    """It is none, or over something else: whoever passes this on lies, for everyone checks before telling."""


class Notary(Protocol):
    """Signs what this peer says, and judges what others are said to have said.  It does not block."""

    @property
    def secured(self) -> bool:
        """Whether claims without valid signatures are refused; if not, nothing else is ever asked."""

    def sign(self, rumour: Rumour) -> Rumour:
        """``rumour``, whose origin is this peer, with its signature: as ``word`` of itself, or as ``accusation``."""

    def judge_word(self, rumour: Rumour) -> Verdict:
        """Whether the subject itself said that it is at this address and incarnation (and, if so, that it leaves)."""

    def judge_accusation(self, rumour: Rumour) -> Verdict:
        """Whether the origin accused the subject at this address and incarnation.

        Who says dead says suspect as well: a rumour that was made weaker on the way still holds.
        """


class Unsigned:
    """For swarms without credentials: claims are not signed, and everyone is believed."""

    @property
    def secured(self) -> bool:
        return False

    def sign(self, rumour: Rumour) -> Rumour:
        return rumour

    def judge_word(self, rumour: Rumour) -> Verdict:
        return Verdict.HOLDS

    def judge_accusation(self, rumour: Rumour) -> Verdict:
        return Verdict.HOLDS
