"""gRPC's knobs, with the reason for each value; both sides in one place, for several must fit together."""

from __future__ import annotations

import resource
from typing import Final

MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
MAX_CONCURRENT_CALLS: Final = 1024
"""Calls in progress on a server, event streams included; more are refused (RESOURCE_EXHAUSTED), not queued."""

MAX_CONNECTIONS: Final = 4096
"""Connections to a server, finished handshakes or not, at most; see :func:`server_options`."""

_BOTH = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", 16 * 1024),
    # Only "identity": sizes are checked before decompression, so that a small bomb would pass.
    ("grpc.compression_enabled_algorithms_bitset", 1),
)

SERVER_OPTIONS: Final = (
    *_BOTH,
    # Otherwise two processes could listen on one port and share its connections between them.
    ("grpc.so_reuseport", 0),
    # Of one connection.  Above it gRPC resets streams, which callers cannot tell from a dying peer.
    ("grpc.max_concurrent_streams", MAX_CONCURRENT_CALLS),
    # A stranger that connects and says nothing would hold its connection for two minutes.
    ("grpc.server_handshake_timeout_ms", 10_000),
    # Callers ping idle connections every 5 s (see below), which is none of the abuse that costs a connection: pings
    # more often than once in a second, several times in a row, with nothing answered in between.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.http2.max_ping_strikes", 5),
)


def server_options(connections: int = MAX_CONNECTIONS) -> tuple[tuple[str, str | int], ...]:
    """``SERVER_OPTIONS``, and a bound on connections: whoever comes above it is hung up on before a handshake.

    Half of the descriptors that the process may have stay for links, checkpoints and its own calls.
    """
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    bound = connections if files == resource.RLIM_INFINITY else min(connections, files // 2)
    return (*SERVER_OPTIONS, ("grpc.max_allowed_incoming_connections", bound))


BULK_OPTIONS: Final = (
    *_BOTH,
    # gRPC waits up to two minutes before it dials again: a restarted peer would look dead for as long.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # In spite of its name this is the least time that one attempt to connect gets (20 s by default).  Short: packets
    # that a healed partition swallowed are not waited for.  Long: slow networks, three round trips are needed.
    ("grpc.min_reconnect_backoff_ms", 2000),
    # A name may mean another machine after a restart (containers); gRPC would ask DNS every 30 s only.
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
    # A connection whose other end vanished without a word is noticed within 8 s and dialled anew.
    ("grpc.keepalive_time_ms", 5000),
    ("grpc.keepalive_timeout_ms", 3000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Idle connections are dropped (and dialled again when needed): a thousand peers do not keep a full mesh.
    ("grpc.client_idle_timeout_ms", 60_000),
    # Proxies are for the web; a swarm's own addresses must not go through one.
    ("grpc.enable_http_proxy", 0),
    # Channels share no connection, and a new channel starts without an old one's backoff.
    ("grpc.use_local_subchannel_pool", 1),
)

PROBE_OPTIONS: Final = (*BULK_OPTIONS, ("lepton.purpose", "probe"))
"""A channel with arguments of its own, so that failure detection never shares a connection."""
