"""Bounds and checks that all conversions from the network share.

Reading is strict (``ValueError`` with one line; the server answers INVALID_ARGUMENT); writing is lenient with
words only: a reason that is too long or spans lines is clipped, so that it never keeps a message from leaving.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sized

from lepton_p2p.errors import AddressError
from lepton_p2p.identity import PeerId, PeerInfo, peer_id, split_address
from lepton_p2p.proto.lepton.v1 import common_pb2 as pb
from lepton_p2p.rounds.epoch import Ballot

MAX_ADDRESS = 300
"""Characters of an address; the longest DNS name has 253."""
MAX_MEMBERS = 10_000
"""Entries of any list of peers: keeps the largest message within 4 MiB for addresses of usual length."""
MAX_TEXT = 500
"""Characters of a reason or an event's line."""
MAX_COUNTER = 2**63
"""Rounds, incarnations, ballots and other counts stay below."""
MAX_VALUES = 256
"""Entries of a map of numbers."""
MAX_KEY = 128
"""Characters of a key in such a map, and of digests in text form."""

# What a terminal or a log would act upon instead of showing: control characters, line separators, surrogates.
_UNSHOWABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
# Nothing that gRPC could take for a scheme or a path, whatever it is joined with.
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?")


def check_address(text: str) -> str:
    """``text`` if it is a ``host:port`` that can be called (port 1 to 65535); ``ValueError`` otherwise."""
    if len(text) > MAX_ADDRESS:
        raise ValueError(f"an address has at most {MAX_ADDRESS} characters, this one {len(text)}")
    try:
        host, port = split_address(text)
    except AddressError as error:
        raise ValueError(str(error)) from None
    if not _HOST.fullmatch(host) or port == 0 or text != text.strip():
        raise ValueError(f"{text!r} is not an address that can be called")
    return text


def check_optional_id(text: str) -> str:
    """``text`` if it is a peer id or empty."""
    return peer_id(text) if text else ""


def check_ids(texts: Iterable[str]) -> tuple[PeerId, ...]:
    """A list of at most ``MAX_MEMBERS`` different peer ids."""
    ids = tuple(peer_id(text) for text in texts)
    check_size(ids, "peer ids")
    check_unique(ids)
    return ids


def check_size(items: Sized, what: str, limit: int = MAX_MEMBERS) -> None:
    if len(items) > limit:
        raise ValueError(f"at most {limit} {what} fit in a message, this one has {len(items)}")


def check_unique(ids: tuple[PeerId, ...]) -> None:
    if len(set(ids)) != len(ids):
        raise ValueError("a peer is listed twice")


def check_text(text: str, what: str, limit: int = MAX_TEXT) -> str:
    """``text`` if it is one showable line of at most ``limit`` characters."""
    if len(text) > limit:
        raise ValueError(f"{what} has at most {limit} characters, this one {len(text)}")
    if _UNSHOWABLE.search(text):
        raise ValueError(f"{what} holds control characters")
    return text


def clip(text: str, limit: int = MAX_TEXT) -> str:
    """``text`` made to pass ``check_text``: unshowable characters become blanks, the end is cut."""
    text = _UNSHOWABLE.sub(" ", text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def check_counter(value: int, what: str, limit: int = MAX_COUNTER) -> int:
    if not 0 <= value < limit:
        raise ValueError(f"{what} is below {limit}, not {value}")
    return value


def check_values(values: Mapping[str, float]) -> dict[str, float]:
    """A map of numbers with bounded size and keys; the numbers may be NaN or infinite (a loss may be)."""
    check_size(values, "numbers", MAX_VALUES)
    return {check_text(key, "a name", MAX_KEY): float(value) for key, value in values.items()}


def peer_to_wire(peer: PeerInfo) -> pb.PeerInfo:
    return pb.PeerInfo(id=peer.id, address=peer.address)


def peer_from_wire(peer: pb.PeerInfo) -> PeerInfo:
    return PeerInfo(peer_id(peer.id), check_address(peer.address))


def peers_from_wire(peers: Iterable[pb.PeerInfo]) -> tuple[PeerInfo, ...]:
    """At most ``MAX_MEMBERS`` peers, each id once."""
    infos = tuple(peer_from_wire(peer) for peer in peers)
    check_size(infos, "peers")
    check_unique(tuple(info.id for info in infos))
    return infos


def ballot_to_wire(ballot: Ballot) -> pb.Ballot:
    return pb.Ballot(counter=ballot.counter, proposer=ballot.proposer)


def ballot_from_wire(ballot: pb.Ballot) -> Ballot:
    return Ballot(check_counter(ballot.counter, "a ballot's counter"), PeerId(check_optional_id(ballot.proposer)))
