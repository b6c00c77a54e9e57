"""``lepton-peer health`` asks the standard service and answers with 0 or 1, as container engines want it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import typer
from grpc_health.v1 import health as service
from grpc_health.v1 import health_pb2, health_pb2_grpc
from typer.testing import CliRunner

from lepton_p2p.cli.health import health
from lepton_p2p.errors import AddressError

app = typer.Typer()
app.command()(health)


@pytest.fixture
def servicer() -> service.HealthServicer:
    return service.HealthServicer()


@pytest.fixture
def address(servicer: service.HealthServicer) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(max_workers=1))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(grace=None).wait()


def test_a_serving_peer_is_0(servicer: service.HealthServicer, address: str) -> None:
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)

    result = CliRunner().invoke(app, [address])

    assert result.exit_code == 0
    assert result.output == f"{address}: SERVING\n"


def test_a_peer_that_does_not_serve_is_1(servicer: service.HealthServicer, address: str) -> None:
    servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)

    result = CliRunner().invoke(app, [address])

    assert result.exit_code == 1
    assert result.output == f"{address}: NOT_SERVING\n"


def test_nobody_there_is_1_with_the_reason() -> None:
    closed = "127.0.0.1:1"

    result = CliRunner().invoke(app, [closed])

    assert result.exit_code == 1
    assert result.output.startswith(f"{closed}: UNAVAILABLE ")


def test_what_is_no_address_is_an_address_error() -> None:
    result = CliRunner().invoke(app, ["nonsense"])

    assert isinstance(result.exception, AddressError)
