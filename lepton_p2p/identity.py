"""Who a peer is: an id that is new with every start, and the address where it is reached."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NewType

from lepton_p2p.errors import AddressError

PeerId = NewType("PeerId", str)
"""32 lowercase hex digits, new with every process: a restarted machine is a new peer.

With credentials the hash of the process's public key (``credentials.keys.id_of``), otherwise random.
"""

_PEER_ID = re.compile(r"[0-9a-f]{32}")


def peer_id(text: str) -> PeerId:
    """Check ``text`` (from the network or a file) and return it as a peer id; ``ValueError`` otherwise."""
    if not _PEER_ID.fullmatch(text):
        raise ValueError(f"a peer id is 32 lowercase hex digits, not {text[:64]!r}")
    return PeerId(text)


def short(peer: str) -> str:
    """The first eight digits: what logs and tables show."""
    return peer[:8]


@dataclass(frozen=True, slots=True, order=True)
class PeerInfo:
    """A peer as others know it: ``id`` and the ``host:port`` of its control plane."""

    id: PeerId
    address: str


def split_address(text: str, *, default_port: int | None = None) -> tuple[str, int]:
    """Split ``host:port`` or ``[v6]:port`` (port 0 to 65535); raise :class:`AddressError` in one clear line."""
    host, colon, port = text.strip().rpartition(":")
    if not colon or (":" in host and not host.startswith("[")):
        if default_port is None or (":" in text and not text.startswith("[")):
            raise AddressError(f"{text!r} is not an address: write HOST:PORT, for example 127.0.0.1:7700")
        host, port = text.strip(), str(default_port)
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise AddressError(f"{text!r} is not an address: write HOST:PORT, for example 127.0.0.1:7700")
    return host, int(port)


def join_address(host: str, port: int) -> str:
    """``host:port``, with brackets around an IPv6 host."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
