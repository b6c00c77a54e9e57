"""Around every handler: who calls is judged, then the request is decoded, then it is answered.

A request that is no message of its call gets an answer that says so, where gRPC itself would log a traceback.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, aclosing, contextmanager
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError

from lepton_p2p.transport.faults import Context, answering

if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]
else:  # at run time grpc's class takes no parameters
    Handler = grpc.RpcMethodHandler

Admission = Callable[[Context], AbstractContextManager[Callable[[], None]]]
"""Entered for as long as a call runs; raises what ends the call instead.  What it gives is called before each message
of a stream, and raises if the caller is not to have more.
"""


@contextmanager
def anybody(context: Context) -> Iterator[Callable[[], None]]:
    """The admission of a swarm without credentials."""
    yield lambda: None


def forgiving(handler: Handler, admission: Admission = anybody) -> Handler:
    """``handler`` behind ``admission``, for calls of any arity that a service here has.

    A request that cannot be decoded is refused as INVALID_ARGUMENT.
    """
    wrapped, write = _Forgiving(handler, admission), handler.response_serializer
    # Without a deserializer the body stays bytes until the caller is admitted.
    if handler.request_streaming:
        return grpc.stream_stream_rpc_method_handler(wrapped.talk, None, write)
    if not handler.response_streaming:
        return grpc.unary_unary_rpc_method_handler(wrapped.answer, None, write)
    # The health service's Watch is of the other kind that gRPC knows: it yields nothing and writes itself.
    many: Any = wrapped.stream if inspect.isasyncgenfunction(handler.unary_stream) else wrapped.write
    return grpc.unary_stream_rpc_method_handler(many, None, write)


class _Forgiving:
    def __init__(self, handler: Handler, admission: Admission) -> None:
        self._admission = admission
        self._decode: Any = handler.request_deserializer
        self._one: Any = handler.unary_unary
        self._many: Any = handler.unary_stream
        self._dialogue: Any = handler.stream_stream

    async def _read(self, data: bytes, context: Context) -> Any:
        try:
            return self._decode(data)
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the request is not a message of this call")

    async def answer(self, data: bytes, context: Context) -> Any:
        async with answering(context, "admission"):
            with self._admission(context):
                return await self._one(await self._read(data, context), context)

    async def stream(self, data: bytes, context: Context) -> AsyncIterator[Any]:
        async with answering(context, "admission"):
            with self._admission(context) as check:
                async with aclosing(self._many(await self._read(data, context), context)) as replies:
                    async for reply in replies:
                        check()
                        yield reply

    async def write(self, data: bytes, context: Context) -> None:
        async with answering(context, "admission"):
            with self._admission(context):
                await self._many(await self._read(data, context), context)

    async def talk(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[Any]:
        async def decoded() -> AsyncIterator[Any]:
            async for data in requests:
                yield await self._read(data, context)

        async with answering(context, "admission"):
            with self._admission(context) as check:
                async for reply in self._dialogue(decoded(), context):
                    check()
                    yield reply
