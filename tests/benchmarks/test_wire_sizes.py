"""Sizes that are put together from parts are those of the real messages."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st
from wire_sizes import WireSizes

from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.membership import Ack, Gossip, Nack, Packet, Ping, PingRequest, Rumour, Status, Sync
from lepton_p2p.transport.wire_membership import packet_to_wire

ids = st.integers(0, 2**128 - 1).map(lambda number: PeerId(f"{number:032x}"))
addresses = st.text("abc.0123456789", min_size=1, max_size=200).map(lambda host: f"{host}:7700")
peers = st.builds(PeerInfo, ids, addresses)
counters = st.integers(0, 2**63 - 1) | st.integers(0, 300)
signatures = st.binary(max_size=73)
rumours = st.builds(Rumour, peers, st.sampled_from(Status), counters, ids | st.just(""), signatures, signatures)
some = st.lists(rumours, max_size=5).map(tuple)
bodies = st.one_of(
    st.builds(Ping, counters, ids | st.just("")),
    st.builds(Ack, counters),
    st.builds(Nack, counters),
    st.builds(PingRequest, counters, peers),
    st.just(Gossip()),
    st.builds(Sync, some, st.booleans(), counters),
)
packets = st.builds(Packet, peers, bodies, some)

FACT = Rumour(PeerInfo(PeerId("ab" * 16), "10.0.0.1:7700"), Status.ALIVE, 0, "ab" * 16)


@given(st.lists(packets, min_size=1, max_size=8))
@example([Packet(FACT.peer, Sync((FACT,) * count, True), ()) for count in (0, 1, 2, 200)])
def test_they_are_what_protobuf_says(some_packets: list[Packet]) -> None:
    sizes = WireSizes()
    for packet in some_packets:
        assert sizes.packet(packet) == packet_to_wire(packet).ByteSize()
