"""Membership claims and the certificates behind them: nothing holds but what members signed, word for word."""

from __future__ import annotations

import time

from google.protobuf.message import DecodeError

from fuzzing.target import Target, refusing
from lepton_p2p.credentials.certificates import Holder, certify_node, found_authority, make_process
from lepton_p2p.credentials.keys import new_key
from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.membership import Gossip, Packet, Rumour, Status, Verdict
from lepton_p2p.membership.notary import ACCUSATIONS
from lepton_p2p.proto.lepton.v1 import credentials_pb2, membership_pb2
from lepton_p2p.runtime.acquaintances import Acquaintances
from lepton_p2p.runtime.claims import SignedClaims
from lepton_p2p.transport.security import Security
from lepton_p2p.transport.wire_credentials import show_request_from_wire, shown_from_wire, shown_to_wire
from lepton_p2p.transport.wire_membership import packet_from_wire, packet_to_wire

_AUTHORITY = found_authority("fuzzed")


def _node() -> Holder:
    key = new_key()
    return Holder(key, certify_node(_AUTHORITY, key.public_key(), "node", may_issue=False), _AUTHORITY.authority)


class _Process:
    def __init__(self) -> None:
        self.holder = make_process(_node())
        self.acquaintances = Acquaintances(Security(self.holder), time.monotonic)
        self.claims = SignedClaims(self.holder, self.acquaintances)
        self.info = PeerInfo(PeerId(self.holder.id), "127.0.0.1:7700")


_SUBJECT, _ACCUSER = _Process(), _Process()
_SUBJECT.acquaintances.introduce(
    _SUBJECT.acquaintances.verify(_ACCUSER.acquaintances.chains([_ACCUSER.info.id])), frozenset({_ACCUSER.info.id})
)
_ALIVE = _SUBJECT.claims.sign(Rumour(_SUBJECT.info, Status.ALIVE, 3, _SUBJECT.info.id))
_LEFT = _SUBJECT.claims.sign(Rumour(_SUBJECT.info, Status.LEFT, 3, _SUBJECT.info.id))
_DEAD = _ACCUSER.claims.sign(Rumour(_SUBJECT.info, Status.DEAD, 3, _ACCUSER.info.id, word=_ALIVE.word))
_SAID = {(rumour.status, rumour.peer, rumour.incarnation) for rumour in (_ALIVE, _LEFT, _DEAD)} | {
    (Status.SUSPECT, _SUBJECT.info, 3)  # who says dead says suspect
}


def claims(data: bytes) -> None:
    """A packet of claims: what is judged to hold is what was said."""
    for rumour in packet_from_wire(membership_pb2.Packet.FromString(data)).rumours:
        held = _SUBJECT.claims.judge_word(rumour) is Verdict.HOLDS
        if rumour.status in ACCUSATIONS:
            held = held and _SUBJECT.claims.judge_accusation(rumour) is Verdict.HOLDS
            held = held and rumour.origin == _ACCUSER.info.id
        assert not held or (rumour.status, rumour.peer, rumour.incarnation) in _SAID


def shown(data: bytes) -> None:
    """Certificates that somebody shows: nobody but the two is introduced."""
    bearers = _SUBJECT.acquaintances.verify(shown_from_wire(credentials_pb2.Shown.FromString(data)))
    assert {bearer.id for bearer in bearers} <= {_SUBJECT.info.id, _ACCUSER.info.id}


TARGETS = (
    Target(
        "claims.packet",
        refusing(claims, DecodeError, ValueError),
        (packet_to_wire(Packet(_ACCUSER.info, Gossip(), (_ALIVE, _DEAD, _LEFT))).SerializeToString(),),
    ),
    Target(
        "claims.shown",
        refusing(shown, DecodeError, ValueError),
        (shown_to_wire(_ACCUSER.acquaintances.chains([_ACCUSER.info.id])).SerializeToString(),),
    ),
    Target(
        "claims.show_request",
        refusing(
            lambda data: show_request_from_wire(credentials_pb2.ShowRequest.FromString(data)), DecodeError, ValueError
        ),
        (credentials_pb2.ShowRequest(processes=["a" * 32]).SerializeToString(),),
    ),
)
