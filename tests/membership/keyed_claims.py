"""Signatures that cost next to nothing: keyed hashes, whose keys a register in the test knows and machines do not."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

from lepton_p2p.identity import PeerId
from lepton_p2p.membership import Rumour, Status, Verdict
from lepton_p2p.membership.notary import ACCUSATIONS


@dataclass
class Register:
    """The members of a swarm; who is ``barred`` has no valid certificate any more."""

    swarm: str = "swarm"
    members: set[PeerId] = field(default_factory=set)
    barred: set[PeerId] = field(default_factory=set)

    def notary(self, me: PeerId) -> KeyedNotary:
        """Make ``me`` a member; the notary is what its machine gets."""
        self.members.add(me)
        return KeyedNotary(self, me)

    def holds(self, rumour: Rumour) -> bool:
        """Whether a third party that knows everybody believes all that ``rumour`` says."""
        anyone = KeyedNotary(self, PeerId(""))
        word = anyone.judge_word(rumour) is Verdict.HOLDS
        return word and (rumour.status not in ACCUSATIONS or anyone.judge_accusation(rumour) is Verdict.HOLDS)


@dataclass(frozen=True)
class KeyedNotary:
    """See ``membership.Notary``."""

    register: Register
    me: PeerId

    @property
    def secured(self) -> bool:
        return True

    def sign(self, rumour: Rumour) -> Rumour:
        mark = self._mark(self.me, rumour, rumour.status)
        if rumour.status in ACCUSATIONS:
            return replace(rumour, accusation=bytes([rumour.status]) + mark)
        return replace(rumour, word=mark)

    def judge_word(self, rumour: Rumour) -> Verdict:
        said = Status.LEFT if rumour.status is Status.LEFT else Status.ALIVE
        return self._judge(rumour.peer.id, rumour, said, rumour.word)

    def judge_accusation(self, rumour: Rumour) -> Verdict:
        if rumour.accusation[:1] not in (bytes([rumour.status]), bytes([Status.DEAD])):
            return Verdict.FORGED
        return self._judge(PeerId(rumour.origin), rumour, Status(rumour.accusation[0]), rumour.accusation[1:])

    def _judge(self, signer: PeerId, rumour: Rumour, said: Status, mark: bytes) -> Verdict:
        if signer not in self.register.members - self.register.barred:
            return Verdict.UNKNOWN
        return Verdict.HOLDS if mark == self._mark(signer, rumour, said) else Verdict.FORGED

    def _mark(self, signer: PeerId, rumour: Rumour, said: Status) -> bytes:
        accuser = signer if said in ACCUSATIONS else ""
        text = repr((self.register.swarm, said, rumour.peer, rumour.incarnation, accuser))
        return hashlib.blake2b(text.encode(), key=signer.encode(), digest_size=16).digest()
