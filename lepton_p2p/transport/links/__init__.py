"""The data plane: authenticated TCP links that carry frames, and who may open them."""

from lepton_p2p.transport.links.arrivals import Arrivals, ChunkSink
from lepton_p2p.transport.links.hub import LinkHub
from lepton_p2p.transport.links.link import Link, LinkStatistics, Purpose
from lepton_p2p.transport.links.tickets import Ticket

__all__ = ["Arrivals", "ChunkSink", "Link", "LinkHub", "LinkStatistics", "Purpose", "Ticket"]
