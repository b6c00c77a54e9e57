"""``lepton-peer health``: ask the standard gRPC health service, for container engines and load balancers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lepton_p2p.cli.options import ADDRESS, KEYS
from lepton_p2p.identity import join_address, split_address

UNHEALTHY = 1
"""Exit code when the peer does not serve; 1 because container engines reserve all others."""


def health(
    address: Annotated[str, ADDRESS],
    keys: Annotated[Path | None, KEYS] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the answer.", min=0.05)] = 3.0,
) -> None:
    """Exit with 0 if the peer at HOST:PORT serves, with 1 and the reason if not.

    Asks ``grpc.health.v1.Health/Check`` for the server as a whole (gRPC Health Checking Protocol), which needs no
    swarm name; raises :class:`~lepton_p2p.errors.AddressError` for an address that does not parse.
    """
    host, port = split_address(address)
    found = _check(join_address(host, port), timeout, keys)
    typer.echo(f"{address}: {found}")
    if found != "SERVING":
        raise typer.Exit(UNHEALTHY)


def _check(target: str, timeout: float, keys: Path | None) -> str:
    """The status by its name in the protocol, or the gRPC error in its place."""
    import grpc  # here and not above: half a second that other commands' --help shall not cost
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from lepton_p2p.credentials.certificates import make_process
    from lepton_p2p.credentials.folder import KeysFolder
    from lepton_p2p.transport.security import CHANNEL_OPTIONS, Security

    # A container's health must not depend on a proxy that the environment names for something else.
    options: list[tuple[str, Any]] = [("grpc.enable_http_proxy", 0)]
    if keys is None:
        channel = grpc.insecure_channel(target, options=options)
    else:
        security = Security(make_process(KeysFolder(keys).valid_node()[0]))
        channel = grpc.secure_channel(target, security.for_channel(), options=[*options, *CHANNEL_OPTIONS])
    with channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            reply = stub.Check(health_pb2.HealthCheckRequest(service=""), timeout=timeout)
        except grpc.RpcError as error:
            return f"{error.code().name} {error.details()}"
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status))
