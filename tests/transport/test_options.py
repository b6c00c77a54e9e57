"""gRPC takes options by name and says nothing about a name that it does not know."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from pathlib import Path

import grpc
import pytest
from grpc._cython import cygrpc

from lepton_p2p.transport.options import BULK_OPTIONS, PROBE_OPTIONS, server_options

NAMES = sorted({name for name, _ in (*server_options(), *BULK_OPTIONS, *PROBE_OPTIONS) if name.startswith("grpc.")})


@pytest.fixture(scope="module")
def core() -> bytes:
    """gRPC's own code, in which each name that it looks for is a string."""
    return Path(cygrpc.__file__).read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_grpc_knows_every_option_that_it_is_given(core: bytes, name: str) -> None:
    assert name.encode() + b"\0" in core


async def test_above_its_bound_of_connections_a_server_hangs_up_and_those_that_it_has_go_on() -> None:
    server = grpc.aio.server(options=server_options(10))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with asyncio.timeout(50), contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(server.stop, 0)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
        await channel.channel_ready()
        greeted = 0
        for _ in range(30):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            stack.callback(writer.close)
            with contextlib.suppress(ConnectionError):
                greeted += bool(await reader.read(1))  # its settings, or the end
        assert greeted == 9, "and the channel's"
        with pytest.raises(grpc.aio.AioRpcError) as answer:
            await channel.unary_unary("/nothing/Here")(b"")
        assert answer.value.code() is grpc.StatusCode.UNIMPLEMENTED, "it is served"


def test_descriptors_stay_for_links_and_checkpoints() -> None:
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(1000, most), most))
        assert dict(server_options())["grpc.max_allowed_incoming_connections"] == min(1000, most) // 2
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))
