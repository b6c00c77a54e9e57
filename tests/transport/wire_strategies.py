"""Hypothesis strategies for everything that the control plane carries."""

from __future__ import annotations

import math

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
    Passed,
    Prepare,
    Promise,
    Refusal,
    Report,
    RoundMessage,
    Standing,
    Unite,
)
from lepton_p2p.transport.links.tickets import Ticket
from lepton_p2p.transport.values import (
    CheckpointInfo,
    JobDocument,
    Manifest,
    MemberStatus,
    OfferReply,
    Phase,
    ResultInfo,
    StatusReport,
    SwarmEvent,
    TensorSpec,
)
from lepton_p2p.transport.wire_state import ITEM_BYTES, MAX_CHUNK_BYTES

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


rumours = st.builds(
    Rumour,
    peers,
    st.sampled_from(Status),
    counters,
    st.one_of(st.just(""), peer_ids),
    st.binary(max_size=72),
    st.binary(max_size=73),
)
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
standings = st.builds(Standing, st.integers(0, 10_000), counters, counters, hashes, counters)
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
        origin=counters,
        pending=counters,
        schema=hashes,
        attempts=st.integers(0, 2**32 - 1),
        passed=st.lists(st.builds(Passed, hashes, counters), max_size=64).map(tuple),
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
        origin=draw(counters),
        brought=tuple(draw(st.lists(st.sampled_from(epoch.ids), unique=True))),
    )
    return Install(draw(peers), epoch, decision)


@st.composite
def unites(draw: st.DrawFn) -> Unite:
    members = draw(distinct_peers(1))
    return Unite(draw(st.sampled_from(members)), members, draw(digests), draw(counters))


ROUND_MESSAGES: dict[type[RoundMessage], st.SearchStrategy[RoundMessage]] = {
    Prepare: st.builds(Prepare, peers, ballots, distinct_peers(1), lines, booleans),
    Promise: promises(),
    Refusal: st.builds(Refusal, peers, ballots, ballots, booleans, st.none() | standings),
    Install: installs(),
    Admit: st.builds(Admit, peers, digests, counters),
    AdmitReply: st.builds(AdmitReply, peers, booleans, lines, booleans, counters, booleans),
    Announce: st.builds(Announce, peers, standings, digests, st.none() | ballots),
    Unite: unites(),
    Leaving: st.builds(Leaving, peers, lines, counters),
}
round_messages = st.one_of(*ROUND_MESSAGES.values())

names = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=40)
sha256s = st.binary(min_size=32, max_size=32)
hex256s = sha256s.map(bytes.hex)
sizes = st.integers(0, 2**40)
numbers = st.floats(allow_nan=False)
values = st.dictionaries(names, numbers, max_size=4)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    specs, offset = [], 0
    for name in draw(st.lists(names, max_size=4)):
        dtype = draw(st.sampled_from(sorted(ITEM_BYTES)))
        shape = tuple(draw(st.lists(st.integers(0, 9), max_size=4)))
        nbytes = ITEM_BYTES[dtype] * math.prod(shape)
        specs.append(TensorSpec(name, dtype, shape, offset, nbytes))
        offset += nbytes + draw(st.integers(0, 64))
    chunk = draw(st.integers(max(1, offset // 16), MAX_CHUNK_BYTES))
    digests = tuple(draw(sha256s) for _ in range(-(-offset // chunk)))
    meta = draw(st.binary(max_size=50))
    return Manifest(draw(names), draw(counters), tuple(specs), offset, chunk, digests, meta, draw(sha256s))


@st.composite
def results(draw: st.DrawFn) -> ResultInfo:
    members = tuple(draw(st.lists(peer_ids, min_size=1, max_size=5, unique=True)))
    records = tuple(draw(st.binary(max_size=100)) for _ in members)
    attempts = draw(st.integers(0, 2**32 - 1))
    return ResultInfo(
        draw(counters), draw(counters), draw(hashes), members, records, draw(hashes), draw(sizes), attempts
    )


jobs = st.builds(JobDocument, st.binary(min_size=1, max_size=100), hex256s)
tickets = st.builds(Ticket, st.integers(1, 65535), sha256s, st.one_of(st.just(b""), sha256s))
offer_replies = st.builds(OfferReply, booleans, lines)
nodes = st.just("") | peer_ids
node_names = st.text("abc-._019", max_size=64)
member_statuses = st.builds(MemberStatus, peers, st.sampled_from(Status), counters, booleans, nodes, node_names)
views = st.lists(member_statuses, max_size=4).map(tuple)
events = st.builds(SwarmEvent, numbers, names, st.one_of(st.just(""), peer_ids), lines, values)
statuses = st.builds(
    StatusReport,
    peer=peers,
    version=names,
    swarm=names,
    phase=st.sampled_from(Phase),
    members=views,
    epoch=counters,
    round=counters,
    step=counters,
    data_pass=counters,
    loss=st.none() | numbers,
    samples_per_second=numbers,
    metrics=values,
    rounds_done=counters,
    rounds_retried=counters,
    rounds_lost=counters,
    params_digest=digests,
    job_digest=digests,
    job_name=names,
    uptime=numbers,
    last_recovery_seconds=st.none() | numbers,
    claims_refused=counters,
    checkpoint=st.none() | st.builds(CheckpointInfo, counters, numbers, numbers, counters, counters),
)
