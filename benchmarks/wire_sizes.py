"""How many bytes a membership packet has on the wire, without making the message each time."""

from __future__ import annotations

from lepton_p2p.identity import PeerInfo
from lepton_p2p.membership import Body, Gossip, Packet, PingRequest, Rumour, Sync
from lepton_p2p.transport.wire_membership import packet_to_wire


class WireSizes:
    """Sizes of protobuf messages, put together from parts of which one of each shape was really made.

    What HTTP/2, TLS and TCP add, and the empty answer to every call, is not in them.  Addresses are ASCII.
    """

    def __init__(self) -> None:
        self._bodies: dict[object, int] = {}
        self._rumours: dict[object, int] = {}

    def packet(self, packet: Packet) -> int:
        """Bytes of ``packet``: what ``packet_to_wire(packet).ByteSize()`` says."""
        told = sum(map(self._rumour, packet.rumours))
        body = packet.body
        if not isinstance(body, Sync):
            return self._body(packet.sender, body) + told
        # A long list makes the number longer that says how long the message around it is.
        empty = self._body(packet.sender, Gossip())
        inner = (
            self._body(packet.sender, Sync((), body.reply, body.sequence))
            - empty
            + sum(map(self._rumour, body.members))
        )
        return empty - _field(0) + _field(inner) + told

    def _body(self, sender: PeerInfo, body: Body) -> int:
        """Those of a packet without rumours."""
        shape: tuple[object, ...] = (type(body), len(sender.address))
        match body:
            case PingRequest(sequence, target):
                shape = (*shape, sequence.bit_length(), len(target.address))
            case Sync(_, reply, sequence):
                shape = (*shape, reply, sequence.bit_length())
            case Gossip():
                pass
            case _:
                shape = (*shape, body.sequence.bit_length(), len(getattr(body, "target", "")))
        size = self._bodies.get(shape)
        if size is None:
            size = self._bodies[shape] = packet_to_wire(Packet(sender, body)).ByteSize()
        return size

    def _rumour(self, rumour: Rumour) -> int:
        """Those that ``rumour`` adds to the message that it is in."""
        signatures = (len(rumour.word), len(rumour.accusation))
        shape = (len(rumour.peer.address), rumour.status, rumour.incarnation, len(rumour.origin), *signatures)
        size = self._rumours.get(shape)
        if size is None:
            nobody = Packet(rumour.peer, Gossip())
            with_it = Packet(rumour.peer, Gossip(), (rumour,))
            size = packet_to_wire(with_it).ByteSize() - packet_to_wire(nobody).ByteSize()
            self._rumours[shape] = size
        return size


def _field(size: int) -> int:
    """Bytes of a nested message of ``size`` bytes: its number (one byte), its length (seven bits a byte), itself."""
    return 1 + max(1, -(-size.bit_length() // 7)) + size
