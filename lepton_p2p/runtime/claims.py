"""Membership claims with signatures: this peer's own are made, others' are judged, each once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from lepton_p2p.credentials.certificates import Holder
from lepton_p2p.credentials.claims import Kind, claim, claim_holds, fingerprint, sign_claim
from lepton_p2p.credentials.keys import PublicKey, check_public_key, id_of
from lepton_p2p.membership.messages import Rumour, Status
from lepton_p2p.membership.notary import ACCUSATIONS, Verdict
from lepton_p2p.runtime.acquaintances import Acquaintances

REMEMBERED: Final = 40_000
"""Judgements that are kept, so that no signature is verified twice: two for every row of two views."""

_KINDS: Final = {
    Status.ALIVE: Kind.ALIVE,
    Status.SUSPECT: Kind.SUSPECT,
    Status.DEAD: Kind.DEAD,
    Status.LEFT: Kind.LEFT,
}


@dataclass(frozen=True, slots=True)
class Check:
    """A signature of ``rumour`` that can be verified; ``name``: under which the judgement is kept."""

    rumour: Rumour
    name: bytes
    key: PublicKey
    written: bytes
    signature: bytes

    def holds(self) -> bool:
        return claim_holds(self.key, self.written, self.signature)


class SignedClaims:
    """A ``membership.Notary``: the process ``holder`` signs, ``acquaintances`` know the keys of the others."""

    def __init__(self, holder: Holder, acquaintances: Acquaintances) -> None:
        self._holder = holder
        self._me = holder.id
        self._swarm = id_of(check_public_key(holder.authority.public_key()))
        self._acquaintances = acquaintances
        self._judged: dict[bytes, bool] = {}

    @property
    def secured(self) -> bool:
        return True

    def sign(self, rumour: Rumour) -> Rumour:
        written = self._written(rumour, _KINDS[rumour.status])
        signature = sign_claim(self._holder.key, written)
        if rumour.status in ACCUSATIONS:
            return replace(rumour, accusation=bytes([rumour.status]) + signature)
        return replace(rumour, word=signature)

    def judge_word(self, rumour: Rumour) -> Verdict:
        return self._judge(self._word(rumour))

    def judge_accusation(self, rumour: Rumour) -> Verdict:
        return self._judge(self._accusation(rumour))

    def checks(self, rumours: Iterable[Rumour]) -> list[Check]:
        """The signatures of ``rumours``, as far as their signers are known."""
        found = []
        for rumour in rumours:
            found.append(self._word(rumour))
            if rumour.status in ACCUSATIONS:
                found.append(self._accusation(rumour))
        return [one for one in found if isinstance(one, Check)]

    def judged(self, check: Check) -> bool | None:
        """Whether the signature holds; None: nobody has verified it yet."""
        return self._judged.get(check.name)

    def remember(self, check: Check, holds: bool) -> None:
        """Keep a judgement that was passed elsewhere (``Check.holds`` may run on any thread)."""
        if len(self._judged) >= REMEMBERED:
            del self._judged[next(iter(self._judged))]
        self._judged[check.name] = holds

    def _judge(self, check: Check | Verdict) -> Verdict:
        if isinstance(check, Verdict):
            return check
        holds = self._judged.get(check.name)
        if holds is None:
            self.remember(check, holds := check.holds())
        return Verdict.HOLDS if holds else Verdict.FORGED

    def _word(self, rumour: Rumour) -> Check | Verdict:
        kind = Kind.LEFT if rumour.status is Status.LEFT else Kind.ALIVE
        return self._check(rumour, rumour.peer.id, kind, rumour.word)

    def _accusation(self, rumour: Rumour) -> Check | Verdict:
        said = rumour.accusation[:1]
        if said == bytes([Status.DEAD]):
            kind = Kind.DEAD
        elif said == bytes([Status.SUSPECT]) and rumour.status is Status.SUSPECT:
            kind = Kind.SUSPECT
        else:
            return Verdict.FORGED
        return self._check(rumour, rumour.origin, kind, rumour.accusation[1:])

    def _check(self, rumour: Rumour, signer: str, kind: Kind, signature: bytes) -> Check | Verdict:
        key = self._acquaintances.key_of(signer)
        if key is None:
            return Verdict.UNKNOWN
        written = self._written(rumour, kind)
        return Check(rumour, fingerprint(signer, written, signature), key, written, signature)

    def _written(self, rumour: Rumour, kind: Kind) -> bytes:
        accuser = rumour.origin if kind in (Kind.SUSPECT, Kind.DEAD) else ""
        peer = rumour.peer
        return claim(self._swarm, kind, peer.id, peer.address, rumour.incarnation, accuser)
