"""Signatures that are as long as real ones and cost nothing: what claims weigh, and how many have to be verified."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace

from lepton_p2p.identity import PeerId
from lepton_p2p.membership import Rumour, Status, Verdict
from lepton_p2p.membership.notary import ACCUSATIONS

SIGNATURE = 71
"""Bytes of an ECDSA signature on P-256 in DER: 70 to 72."""


class Stamps:
    """A ``membership.Notary`` for which everything holds; ``work`` counts what a real one would have to do."""

    def __init__(self, me: PeerId, work: Counter[str]) -> None:
        self._me = me
        self._work = work
        self._judged: set[bytes] = set()

    @property
    def secured(self) -> bool:
        return True

    def sign(self, rumour: Rumour) -> Rumour:
        self._work["sign"] += 1
        if rumour.status in ACCUSATIONS:
            return replace(rumour, accusation=bytes([rumour.status]) + stamp(self._me, rumour))
        return replace(rumour, word=stamp(self._me, rumour))

    def judge_word(self, rumour: Rumour) -> Verdict:
        return self._judge(rumour.word)

    def judge_accusation(self, rumour: Rumour) -> Verdict:
        return self._judge(rumour.accusation)

    def _judge(self, signature: bytes) -> Verdict:
        if signature not in self._judged:
            self._judged.add(signature)
            self._work["verify"] += 1
        return Verdict.HOLDS


def stamp(signer: PeerId, rumour: Rumour) -> bytes:
    """The same for the same claim, another for every other one."""
    status = Status.ALIVE if rumour.status not in ACCUSATIONS else rumour.status
    text = repr((signer, rumour.peer, status, rumour.incarnation))
    return hashlib.shake_256(text.encode()).digest(SIGNATURE)
