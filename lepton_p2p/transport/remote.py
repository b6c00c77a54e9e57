"""The channels to one address.

Failure detection has a channel of its own to each peer.  Otherwise a probe would wait behind other calls (HTTP/2
gives them one connection), and a busy peer would look dead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import grpc

from lepton_p2p.errors import AddressError
from lepton_p2p.identity import join_address, split_address
from lepton_p2p.proto.lepton.v1 import (
    credentials_pb2_grpc,
    jobs_pb2_grpc,
    links_pb2_grpc,
    membership_pb2_grpc,
    rounds_pb2_grpc,
    state_pb2_grpc,
    swarm_pb2_grpc,
)
from lepton_p2p.transport.options import BULK_OPTIONS, PROBE_OPTIONS
from lepton_p2p.transport.security import CHANNEL_OPTIONS
from lepton_p2p.transport.wire_common import check_address


class Remote:
    """The two channels to one address and the stubs on them, made when they are first used."""

    def __init__(self, address: str, tls: grpc.ChannelCredentials | None) -> None:
        self._tls = tls
        try:
            host, port = split_address(check_address(address))
        except ValueError as error:
            raise AddressError(str(error)) from None
        # The scheme is spelt out: without it a host named like one ("unix") would change what is dialled.
        self._target = f"dns:///{join_address(host, port)}"
        self._open: list[grpc.aio.Channel] = []

    def _channel(self, options: Sequence[tuple[str, Any]]) -> grpc.aio.Channel:
        plain = grpc.Compression.NoCompression
        if self._tls is None:
            channel = grpc.aio.insecure_channel(self._target, options=options, compression=plain)
        else:
            options = (*options, *CHANNEL_OPTIONS)
            channel = grpc.aio.secure_channel(self._target, self._tls, options=options, compression=plain)
        self._open.append(channel)
        return channel

    @cached_property
    def _bulk(self) -> grpc.aio.Channel:
        return self._channel(BULK_OPTIONS)

    @cached_property
    def membership(self) -> membership_pb2_grpc.MembershipAsyncStub:
        return membership_pb2_grpc.MembershipStub(self._channel(PROBE_OPTIONS))

    @cached_property
    def rounds(self) -> rounds_pb2_grpc.RoundsAsyncStub:
        return rounds_pb2_grpc.RoundsStub(self._bulk)

    @cached_property
    def links(self) -> links_pb2_grpc.LinksAsyncStub:
        return links_pb2_grpc.LinksStub(self._bulk)

    @cached_property
    def state(self) -> state_pb2_grpc.StateAsyncStub:
        return state_pb2_grpc.StateStub(self._bulk)

    @cached_property
    def jobs(self) -> jobs_pb2_grpc.JobsAsyncStub:
        return jobs_pb2_grpc.JobsStub(self._bulk)

    @cached_property
    def credentials(self) -> credentials_pb2_grpc.CredentialsAsyncStub:
        return credentials_pb2_grpc.CredentialsStub(self._bulk)

    @cached_property
    def swarm(self) -> swarm_pb2_grpc.SwarmAsyncStub:
        return swarm_pb2_grpc.SwarmStub(self._bulk)

    async def close(self, grace: float | None = None) -> None:
        """Calls in progress have ``grace`` seconds to end."""
        await asyncio.gather(*(channel.close(grace) for channel in self._open))
