"""The control plane's server: gRPC with our services, health and reflection."""

from __future__ import annotations

import asyncio
import errno
import socket
from types import TracebackType
from typing import Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from lepton_p2p.errors import AddressError, LeptonError, PortInUse
from lepton_p2p.identity import join_address, split_address
from lepton_p2p.transport.handlers import Handlers
from lepton_p2p.transport.interceptor import Door
from lepton_p2p.transport.metadata import Hello
from lepton_p2p.transport.options import MAX_CONCURRENT_CALLS, server_options
from lepton_p2p.transport.security import Security
from lepton_p2p.transport.servicers import add_services


class ControlServer:
    """A server on ``listen`` (``host:port``; port 0: any free one) for the peers and clients of ``swarm``.

    security: what it shows, and whom it lets in; None: everybody, in clear text.

    Three steps, because a peer's handlers need to know its address: :meth:`bind`, :meth:`start`, :meth:`stop`.
    As an async context manager it stops at the end.
    """

    def __init__(
        self, listen: str, *, swarm: str, hello: Hello | None = None, security: Security | None = None
    ) -> None:
        self._listen = listen
        self._host, self._port = split_address(listen)
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined, unused-ignore]
        self._offered: tuple[str, ...] = ()
        self._server: grpc.aio.Server | None = None
        self._hello = hello or Hello.of(swarm, secured=security is not None)
        self._security = security

    @property
    def address(self) -> str:
        """``host:port`` as given to listen on, with the real port once :meth:`bind` is done."""
        return join_address(self._host, self._port)

    async def bind(self) -> str:
        """Take the port and return :attr:`address`; calls wait until :meth:`start`.

        Raises :class:`PortInUse` or :class:`AddressError` (the host does not resolve or is not this machine's).
        """
        numeric = await self._resolve()
        self._probe(numeric)
        self._server = grpc.aio.server(
            interceptors=(Door(self._hello, self._security),),
            options=server_options(),
            maximum_concurrent_rpcs=MAX_CONCURRENT_CALLS,
            compression=grpc.Compression.NoCompression,
        )
        try:
            where = join_address(numeric[1], self._port)
            if self._security is None:
                port = self._server.add_insecure_port(where)
            else:
                port = self._server.add_secure_port(where, self._security.for_server())
        except RuntimeError:
            port = 0
        if port == 0:
            # Somebody took it after the probe, or the probe would have said so.
            raise PortInUse(self._taken())
        self._port = port
        return self.address

    async def start(self, handlers: Handlers) -> None:
        """Serve ``handlers``; health says SERVING from now on."""
        if self._server is None:
            raise LeptonError("bind the server before you start it")
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._offered = add_services(handlers, self._server)
        names = (*self._offered, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        await self.set_serving(True)
        await self._server.start()

    async def set_serving(self, serving: bool) -> None:
        """What the standard health service answers, for the server ("") and each of its services."""
        reply = health_pb2.HealthCheckResponse
        for name in ("", *self._offered):
            await self._health.set(name, reply.SERVING if serving else reply.NOT_SERVING)

    async def stop(self, grace: float = 0.5) -> None:
        """Take no more calls, give those in progress ``grace`` seconds, then cancel them; may be called twice."""
        server, self._server = self._server, None
        if server is not None:
            await self._health.enter_graceful_shutdown()
            await server.stop(grace)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _resolve(self) -> tuple[socket.AddressFamily, str]:
        """The family and numeric address to bind: the first IPv4 one of the host name, else the first."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except (socket.gaierror, UnicodeError):
            raise AddressError(
                f"cannot listen on {self._listen}: the host name {self._host!r} does not resolve; "
                "use an address of this machine, for example 127.0.0.1:7700"
            ) from None
        family, _, _, _, where = min(found, key=lambda info: info[0] != socket.AF_INET)
        return family, str(where[0])

    def _probe(self, numeric: tuple[socket.AddressFamily, str]) -> None:
        """Bind for a moment, for gRPC's own refusal does not say why, and says it on stderr."""
        family, host = numeric
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, self._port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise PortInUse(self._taken()) from None
                reason = error.strerror or str(error)
                raise AddressError(f"cannot listen on {self._listen}: {reason}; choose another --listen") from None

    def _taken(self) -> str:
        return f"{self._listen} is in use by another process: choose another --listen, or port 0 for any free port"
