"""What a member with a valid certificate can try to make the others believe."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace

from lepton_p2p.credentials.certificates import Holder
from lepton_p2p.credentials.keys import new_key
from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.membership import Gossip, Packet, Rumour, Status
from lepton_p2p.runtime.claims import SignedClaims
from lepton_p2p.runtime.node import Node


def lies_about(victim: str, node: Node) -> Iterator[Packet]:
    """One packet for each lie; the last is no forgery: everyone may accuse, in its own name."""
    assert node.credentials is not None
    mine, me = node.credentials.claims, node.me
    word = next(view.fact for view in node.swim.view() if view.peer.id == victim)
    word = replace(word, status=Status.ALIVE, origin=victim, accusation=b"")
    other = next(member.id for member in node.view() if member.id not in (victim, me.id))
    yield _told(me, replace(word, status=Status.LEFT))
    yield _told(me, mine.sign(replace(word, status=Status.LEFT)))
    yield _told(me, replace(word, incarnation=word.incarnation + 5))
    yield _told(me, replace(word, peer=replace(word.peer, address="127.0.0.1:9")))
    yield _told(me, replace(mine.sign(replace(word, status=Status.DEAD, origin=me.id)), origin=other))
    yield _told(me, mine.sign(replace(word, status=Status.DEAD, incarnation=word.incarnation + 5, origin=me.id)))
    yield _told(me, Rumour(PeerInfo(PeerId(secrets.token_hex(16)), "127.0.0.1:9"), Status.ALIVE, 0))
    yield _told(me, _invented(node))
    yield _told(me, mine.sign(replace(word, status=Status.DEAD, origin=me.id)))


def _told(me: PeerInfo, *rumours: Rumour) -> Packet:
    return Packet(me, Gossip(), rumours)


def _invented(node: Node) -> Rumour:
    """A member that signs for itself, with a key that nobody certified."""
    assert node.credentials is not None
    own = node.credentials.security.holder
    holder = Holder(new_key(), own.chain, own.authority)
    info = PeerInfo(PeerId(holder.id), "127.0.0.1:9")
    return SignedClaims(holder, node.credentials.acquaintances).sign(Rumour(info, Status.ALIVE, 0, info.id))
