"""The server: its port, its door, health and reflection, and how it stops."""

from __future__ import annotations

import asyncio
import os
import socket

import grpc
import pytest
from control_fakes import DEADLINE, STATUS, Recorder, calling, failing, serving
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from structlog.testing import capture_logs

from lepton_p2p.errors import AddressError, LeptonError, PortInUse, SwarmUnreachable
from lepton_p2p.identity import split_address
from lepton_p2p.proto.lepton.v1 import membership_pb2, membership_pb2_grpc, swarm_pb2, swarm_pb2_grpc
from lepton_p2p.transport.channels import Channels
from lepton_p2p.transport.handlers import Handlers
from lepton_p2p.transport.metadata import PROTOCOL_VERSION, Hello
from lepton_p2p.transport.server import ControlServer

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def health_of(address: str, service: str = "") -> int:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return (await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=DEADLINE)).status


async def test_port_0_becomes_a_real_port_that_answers() -> None:
    async with serving(Recorder().handlers()) as server, Channels(swarm="lepton") as channels:
        assert split_address(server.address)[1] != 0
        assert await channels.status(server.address) == STATUS


async def test_the_address_is_known_before_the_handlers_are() -> None:
    recorder = Recorder()
    async with ControlServer("127.0.0.1:0", swarm="lepton") as server, Channels(swarm="lepton") as channels:
        address = await server.bind()
        early = asyncio.create_task(channels.status(address, DEADLINE))
        await server.start(recorder.handlers())
        assert await early == STATUS


async def test_starting_without_binding_is_an_error() -> None:
    await failing(ControlServer("127.0.0.1:0", swarm="lepton").start(Handlers()), LeptonError)


async def test_a_port_in_use_by_another_server() -> None:
    async with serving(Handlers()) as first:
        line = await failing(ControlServer(first.address, swarm="lepton").bind(), PortInUse)
        assert first.address in line
        assert "in use" in line


async def test_a_port_in_use_by_something_else() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        await failing(ControlServer(address, swarm="lepton").bind(), PortInUse)


async def test_a_host_that_does_not_resolve() -> None:
    line = await failing(ControlServer("no-such-host.invalid:0", swarm="lepton").bind(), AddressError)
    assert "no-such-host.invalid" in line


async def test_a_host_that_is_not_this_machine() -> None:
    line = await failing(ControlServer("192.0.2.1:0", swarm="lepton").bind(), AddressError)
    assert "192.0.2.1:0" in line


async def test_a_host_name_is_kept_in_the_address() -> None:
    async with serving(Recorder().handlers(), listen="localhost:0") as server, Channels(swarm="lepton") as channels:
        assert server.address.startswith("localhost:")
        assert await channels.status(server.address) == STATUS


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
async def test_ipv6() -> None:
    async with serving(Recorder().handlers(), listen="[::1]:0") as server, Channels(swarm="lepton") as channels:
        assert server.address.startswith("[::1]:")
        assert await channels.status(server.address) == STATUS


async def test_health_answers_anyone_and_can_be_set() -> None:
    async with serving(Recorder().handlers()) as server:
        assert await health_of(server.address) == SERVING
        assert await health_of(server.address, "lepton.v1.Swarm") == SERVING
        await server.set_serving(False)
        assert await health_of(server.address) == NOT_SERVING
        assert await health_of(server.address, "lepton.v1.Swarm") == NOT_SERVING
        await server.set_serving(True)
        assert await health_of(server.address) == SERVING


async def test_reflection_lists_what_is_offered() -> None:
    async with serving(Recorder().handlers()) as server, grpc.aio.insecure_channel(server.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        async for reply in call:
            names = {service.name for service in reply.list_services_response.service}
        assert {f"lepton.v1.{name}" for name in ("Membership", "Rounds", "Links", "State", "Jobs", "Swarm")} <= names
        assert "grpc.health.v1.Health" in names


async def test_a_call_that_says_nothing_of_itself_is_refused_at_the_door_and_logged_once() -> None:
    recorder = Recorder()
    with capture_logs() as logs:
        async with serving(recorder.handlers()) as server, grpc.aio.insecure_channel(server.address) as channel:
            for _ in range(3):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await swarm_pb2_grpc.SwarmStub(channel).Status(swarm_pb2.StatusRequest(), timeout=DEADLINE)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    trailing = dict(caught.value.trailing_metadata() or ())
    assert trailing["lepton-error"] == "WrongSwarm"
    assert trailing["lepton-swarm"] == "lepton"
    assert trailing["lepton-protocol"] == str(PROTOCOL_VERSION)
    assert recorder.got == []
    assert [entry["log_level"] for entry in logs] == ["warning"]


async def test_a_malformed_request_is_an_invalid_argument() -> None:
    recorder = Recorder()
    async with serving(recorder.handlers()) as server, grpc.aio.insecure_channel(server.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await membership_pb2_grpc.MembershipStub(channel).Deliver(
                membership_pb2.Packet(), timeout=DEADLINE, metadata=Hello("lepton").to_metadata()
            )
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "peer id" in (caught.value.details() or "")
    assert recorder.got == []


async def test_a_declared_size_above_the_limit_is_refused_and_the_peer_stays_up() -> None:
    recorder = Recorder()
    async with calling(recorder) as (to, channels), grpc.aio.insecure_channel(to) as channel:
        packet = membership_pb2.Packet()
        packet.sender.address = "x" * (5 * 1024 * 1024)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await membership_pb2_grpc.MembershipStub(channel).Deliver(
                packet, timeout=DEADLINE, metadata=Hello("lepton").to_metadata()
            )
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await channels.status(to) == STATUS


async def test_a_compressed_message_is_refused() -> None:
    recorder = Recorder()
    async with serving(recorder.handlers()) as server:
        gzip = grpc.Compression.Gzip
        async with grpc.aio.insecure_channel(server.address, compression=gzip) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await swarm_pb2_grpc.SwarmStub(channel).Status(
                    swarm_pb2.StatusRequest(), timeout=DEADLINE, metadata=Hello("lepton").to_metadata()
                )
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert recorder.got == []


async def test_random_bytes_and_half_open_connections_do_not_disturb() -> None:
    async with calling(Recorder()) as (to, channels):
        host, port = split_address(to)
        with socket.create_connection((host, port)) as half_open, socket.create_connection((host, port)) as noisy:
            noisy.sendall(os.urandom(4096))
            assert await channels.status(to) == STATUS
            assert half_open.fileno() != -1


async def test_stopping_gives_calls_in_progress_their_grace() -> None:
    recorder = Recorder()
    recorder.go_on.clear()
    async with serving(recorder.handlers()) as server, Channels(swarm="lepton") as channels:
        call = asyncio.create_task(channels.status(server.address, DEADLINE))
        await recorder.arrived.wait()
        stopping = asyncio.create_task(server.stop(DEADLINE))
        recorder.go_on.set()
        assert await call == STATUS
        async with asyncio.timeout(DEADLINE):
            await stopping
        await failing(channels.status(server.address), SwarmUnreachable)
        await server.stop()


async def test_stopping_ends_calls_that_outlast_the_grace() -> None:
    recorder = Recorder()
    recorder.go_on.clear()
    async with serving(recorder.handlers()) as server, Channels(swarm="lepton") as channels:
        call = asyncio.create_task(channels.status(server.address, DEADLINE))
        await recorder.arrived.wait()
        await server.stop(0)
        await failing(call, SwarmUnreachable)


@pytest.mark.parametrize(
    "method",
    [
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/lepton.v1.Swarm/Status",
        "/lepton.v1.Swarm/Events",
    ],
)
async def test_bytes_that_are_no_message_are_refused_without_a_traceback(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(Recorder().handlers()) as server, grpc.aio.insecure_channel(server.address) as channel:
        call = channel.unary_unary(method)(b"\xff" * 8, metadata=Hello("lepton").to_metadata(), timeout=DEADLINE)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert await health_of(server.address) == SERVING
    assert not caplog.records


async def test_health_can_be_watched() -> None:
    async with serving(Recorder().handlers()) as server, grpc.aio.insecure_channel(server.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=""), timeout=DEADLINE)
        assert (await watch.read()).status == SERVING
        await server.set_serving(False)
        assert (await watch.read()).status == NOT_SERVING


async def http2(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The next frame: its type and payload (RFC 9113, section 4.1)."""
    head = await reader.readexactly(9)
    return head[3], await reader.readexactly(int.from_bytes(head[:3], "big"))


async def test_a_flood_of_pings_costs_the_connection() -> None:
    preface, settings = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    ping = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + bytes(8)
    goaway, enhance_your_calm = 7, 11
    async with serving(Recorder().handlers()) as server, Channels(swarm="lepton") as channels:
        host, port = split_address(server.address)
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(preface + settings + 100 * ping)
        async with asyncio.timeout(DEADLINE):
            while (frame := await http2(reader))[0] != goaway:
                pass
            assert int.from_bytes(frame[1][4:8], "big") == enhance_your_calm
            await reader.read()  # until it hangs up
        writer.close()
        assert await channels.status(server.address) == STATUS


async def test_metadata_without_end_are_refused() -> None:
    recorder = Recorder()
    async with serving(recorder.handlers()) as server, grpc.aio.insecure_channel(server.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/lepton.v1.Swarm/Status")(
                b"", timeout=DEADLINE, metadata=(*Hello("lepton").to_metadata(), ("x-large", "a" * 100_000))
            )
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert not recorder.got
