"""Which address others should call, and whether an address may be listened on at all."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from contextlib import suppress

from lepton_p2p.errors import AddressError, InsecureRefused
from lepton_p2p.identity import join_address, split_address

# Documentation addresses (RFC 5737, RFC 3849): nobody is there, but the kernel knows which way they would be.
_ANYWHERE = ("192.0.2.1:9", "[2001:db8::1]:9")


def is_loopback(host: str) -> bool:
    """Whether ``host`` is a loopback address or ``localhost``: reached by this machine only.

    Other names are taken for public, whatever they resolve to today.
    """
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback


def is_wildcard(host: str) -> bool:
    """Whether ``host`` means every interface (``0.0.0.0``, ``::``): good to listen on, nothing to call."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def check_exposure(host: str, insecure: bool) -> None:
    """Raise :class:`InsecureRefused` if strangers could reach a peer on ``host`` and nothing keeps or lets them in.

    insecure: that is allowed, or the peer has credentials.
    """
    if not insecure and not is_loopback(host):
        raise InsecureRefused(
            f"listening on {host} lets anyone who reaches this machine into a swarm without credentials: make some "
            "(lepton-peer keys init) or join with a token; or listen on 127.0.0.1; or pass --insecure if the network "
            "is private"
        )


async def resolve_advertised(listen: str, *, seeds: Sequence[str] = (), advertise: str | None = None) -> str:
    """The ``host:port`` to tell others: ``advertise`` if given, else ``listen`` (its real port), else a guess.

    listen: what the server is bound to.  advertise: ``host:port`` or a bare host, which gets the port of ``listen``.
    A wildcard cannot be called; in its place goes the local address from which packets to the first usable seed
    would leave; without one the host name if others can use it, else the address of the default route.  No packet
    is sent.  Raises :class:`AddressError` if ``advertise`` cannot be called.
    """
    host, port = split_address(listen)
    if advertise is not None:
        told_host, told_port = split_address(advertise, default_port=port)
        if is_wildcard(told_host) or told_port == 0:
            raise AddressError(f"{advertise!r} cannot be called by others: advertise this machine's name or address")
        return join_address(told_host, told_port)
    if not is_wildcard(host):
        return listen
    for seed in seeds:
        if (local := await _local_address_towards(seed)) is not None:
            return join_address(local, port)
    return join_address(await _public_host(), port)


async def _public_host() -> str:
    """The host name, unless it means only this machine here (as Debian's 127.0.1.1 does); then an address."""
    name = socket.gethostname()
    loop = asyncio.get_running_loop()
    with suppress(OSError, UnicodeError):
        found = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        if not any(is_loopback(str(info[4][0])) for info in found):
            return name
    for address in _ANYWHERE:
        if (local := await _local_address_towards(address)) is not None:
            return local
    return name


async def _local_address_towards(address: str) -> str | None:
    """The local address of a UDP socket that is connected to ``address`` (which sends nothing); None if no route."""
    loop = asyncio.get_running_loop()
    try:
        host, port = split_address(address)
        found = await loop.getaddrinfo(host, port or 9, type=socket.SOCK_DGRAM)
    except (AddressError, OSError, UnicodeError):
        return None
    for family, kind, protocol, _, where in found:
        with suppress(OSError), socket.socket(family, kind, protocol) as probe:
            probe.connect(where)
            local = str(probe.getsockname()[0])
            if not is_wildcard(local):
                return local
    return None


async def expand(seeds: Sequence[str], *, mine: str) -> tuple[str, ...]:
    """Each seed whose name stands for several addresses as all of them, without ``mine``; the others as they are.

    A name that a swarm shares (a compose service, a round-robin entry) would otherwise reach one peer of it, perhaps
    this one.  A name with one address stays a name, so that it is looked up again each time it is called.
    """
    loop = asyncio.get_running_loop()
    found: list[str] = []
    for seed in seeds:
        host, port = split_address(seed)
        try:
            rows = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError):
            rows = []  # not yet known; it stays a name and is tried for ever
        addresses = list(dict.fromkeys(join_address(str(row[4][0]), port) for row in rows))
        families = {row[0] for row in rows}
        # localhost is often 127.0.0.1 and ::1: one host by two protocols, not a swarm.
        found += addresses if len(addresses) > 1 and len(families) == 1 else [seed]
    return tuple(dict.fromkeys(address for address in found if address != mine))
