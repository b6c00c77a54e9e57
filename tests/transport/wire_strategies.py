"""Hypothesis strategies for everything that the control plane carries."""

from __future__ import annotations

from hypothesis import strategies as st

from lepton_p2p.identity import PeerId, PeerInfo, join_address
from lepton_p2p.membership.messages import Ack, Gossip, Nack, Packet, Ping, PingRequest, Rumour, Status, Sync
from lepton_p2p.rounds.epoch import Ballot, Epoch, Member
from lepton_p2p.rounds.messages import (
    Admit,
    AdmitReply,
    Announce,
    Decision,
    Install,
    Leaving,
    Prepare,
    Promise,
    Refusal,
    Report,
    RoundMessage,
    Standing,
)

counters = st.integers(0, 2**63 - 1)
hashes = st.integers(0, 2**64 - 1)
booleans = st.booleans()
lines = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=80)
digests = st.text("0123456789abcdef", max_size=64)

peer_ids = st.binary(min_size=16, max_size=16).map(lambda raw: PeerId(raw.hex()))
hosts = st.one_of(
    st.from_regex(r"[a-z0-9][a-z0-9.-]{0,40}", fullmatch=True),
    st.ip_addresses().map(str),
)
addresses = st.builds(join_address, hosts, st.integers(1, 65535))
peers = st.builds(PeerInfo, peer_ids, addresses)


def distinct_peers(min_size: int = 0) -> st.SearchStrategy[tuple[PeerInfo, ...]]:
    return st.lists(peers, min_size=min_size, max_size=6, unique_by=lambda peer: peer.id).map(tuple)


rumours = st.builds(Rumour, peers, st.sampled_from(Status), counters, st.one_of(st.just(""), peer_ids))
many_rumours = st.lists(rumours, max_size=4).map(tuple)
bodies = st.one_of(
    st.builds(Ping, counters, st.one_of(st.just(""), peer_ids)),
    st.builds(Ack, counters),
    st.builds(Nack, counters),
    st.builds(PingRequest, counters, peers),
    st.just(Gossip()),
    st.builds(Sync, many_rumours, booleans, counters),
)
packets = st.builds(Packet, peers, bodies, many_rumours)

ballots = st.builds(Ballot, counters, st.one_of(st.just(PeerId("")), peer_ids))
standings = st.builds(Standing, st.integers(0, 10_000), counters, counters, hashes)
epochs = st.builds(
    Epoch,
    counters,
    ballots,
    st.lists(st.builds(Member, peers, counters), min_size=1, max_size=5, unique_by=lambda m: m.id).map(tuple),
)


def reports(peer: PeerId) -> st.SearchStrategy[Report]:
    return st.builds(
        Report,
        peer=st.just(peer),
        epoch=st.none() | epochs,
        completed=counters,
        digest=hashes,
        rejected=lines,
        work=counters,
        pending=counters,
        schema=hashes,
        attempts=st.integers(0, 2**32 - 1),
        broken=lines,
        state=hashes,
    )


@st.composite
def promises(draw: st.DrawFn) -> Promise:
    sender = draw(peers)
    return Promise(sender, draw(ballots), draw(reports(sender.id)))


@st.composite
def installs(draw: st.DrawFn) -> Install:
    epoch = draw(epochs)
    decision = Decision(
        base=draw(counters),
        digest=draw(hashes),
        holders=tuple(draw(st.lists(st.sampled_from(epoch.ids), unique=True))),
        work=draw(counters),
        rejected=draw(lines),
        lost=tuple(draw(st.lists(st.tuples(peer_ids, lines), max_size=3))),
    )
    return Install(draw(peers), epoch, decision)


ROUND_MESSAGES: dict[type[RoundMessage], st.SearchStrategy[RoundMessage]] = {
    Prepare: st.builds(Prepare, peers, ballots, distinct_peers(1), lines),
    Promise: promises(),
    Refusal: st.builds(Refusal, peers, ballots, ballots, booleans, st.none() | standings),
    Install: installs(),
    Admit: st.builds(Admit, peers, digests),
    AdmitReply: st.builds(AdmitReply, peers, booleans, lines, booleans),
    Announce: st.builds(Announce, peers, standings, digests),
    Leaving: st.builds(Leaving, peers, lines),
}
round_messages = st.one_of(*ROUND_MESSAGES.values())
