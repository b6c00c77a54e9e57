"""Requests that are no message of their call: an answer that says so, where gRPC itself would log a traceback."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError

from lepton_p2p.transport.faults import Context

if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]
else:  # at run time grpc's class takes no parameters
    Handler = grpc.RpcMethodHandler


def forgiving(handler: Handler) -> Handler:
    """``handler``, which refuses such requests as INVALID_ARGUMENT; of any arity that a service here has."""
    wrapped, write = _Forgiving(handler), handler.response_serializer
    if handler.request_streaming:
        return grpc.stream_stream_rpc_method_handler(wrapped.talk, wrapped.read, write)
    if not handler.response_streaming:
        return grpc.unary_unary_rpc_method_handler(wrapped.answer, wrapped.read, write)
    # The health service's Watch is of the other kind that gRPC knows: it yields nothing and writes itself.
    many: Any = wrapped.stream if inspect.isasyncgenfunction(handler.unary_stream) else wrapped.write
    return grpc.unary_stream_rpc_method_handler(many, wrapped.read, write)


class _Forgiving:
    def __init__(self, handler: Handler) -> None:
        self._decode: Any = handler.request_deserializer
        self._one: Any = handler.unary_unary
        self._many: Any = handler.unary_stream
        self._dialogue: Any = handler.stream_stream

    def read(self, data: bytes) -> Any:
        try:
            return self._decode(data)
        except DecodeError:
            return None

    async def _check(self, request: Any, context: Context) -> None:
        if request is None:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the request is not a message of this call")

    async def answer(self, request: Any, context: Context) -> Any:
        await self._check(request, context)
        return await self._one(request, context)

    async def stream(self, request: Any, context: Context) -> AsyncIterator[Any]:
        await self._check(request, context)
        async for reply in self._many(request, context):
            yield reply

    async def write(self, request: Any, context: Context) -> None:
        await self._check(request, context)
        await self._many(request, context)

    async def talk(self, requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        async def checked() -> AsyncIterator[Any]:
            async for request in requests:
                await self._check(request, context)
                yield request

        async for reply in self._dialogue(checked(), context):
            yield reply
