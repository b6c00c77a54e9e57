"""The server's door: a call of another swarm or another protocol is refused before its body is looked at."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import grpc
import structlog

from lepton_p2p.errors import CredentialsRefused, LeptonError, WrongSwarm
from lepton_p2p.transport.faults import Context, abort_with
from lepton_p2p.transport.forgiving import Admission, anybody, forgiving
from lepton_p2p.transport.guard import Guard
from lepton_p2p.transport.metadata import REVOKED_KEY, Hello, mismatch
from lepton_p2p.transport.proof import prove
from lepton_p2p.transport.security import Security

_log = structlog.get_logger(__name__)

EXEMPT: Final = ("/grpc.health.", "/grpc.reflection.")
_MAX_NAMED: Final = 64

if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]
    Interceptor = grpc.aio.ServerInterceptor[Any, Any]
else:  # at run time grpc's classes take no parameters
    Handler = grpc.RpcMethodHandler
    Interceptor = grpc.aio.ServerInterceptor


class Door(Interceptor):
    """Lets calls in whose metadata fit ``mine``; health and reflection are open to all.

    A refusal is FAILED_PRECONDITION with the class in ``lepton-error`` and this side's own metadata beside it, so
    that the caller can name both sides' values.  Each different reason is logged once.  With ``security`` every call,
    those included, is judged by its certificate.
    """

    def __init__(self, mine: Hello, security: Security | None = None) -> None:
        self._mine = mine
        self._security = security
        self._guard = Guard(security, time.monotonic) if security is not None else None
        self._said: set[str] = set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        if handler_call_details.method.startswith(EXEMPT):
            return forgiving(handler, self._admission(handler_call_details))
        error = self._judge(handler_call_details)
        if error is not None:
            return self._refusal(handler, error)
        return forgiving(handler, self._admission(handler_call_details))

    def _admission(self, details: grpc.HandlerCallDetails) -> Admission:
        security, guard = self._security, self._guard
        if security is None or guard is None:
            return anybody

        @contextmanager
        def admission(context: Context) -> Iterator[Callable[[], None]]:
            try:
                with guard.admitted(context, details.method) as bearer:
                    proof = prove(security.holder, bearer.id, details.invocation_metadata or ())
                    context.set_trailing_metadata((*proof, (REVOKED_KEY, security.revocations.digest)))
                    yield lambda: security.check(bearer)
            except CredentialsRefused as error:
                host = context.peer().rpartition(":")[0]  # said once, not for each of its ports
                self._say(f"{host}: {error}", details.method)
                raise

        return admission

    def _judge(self, details: grpc.HandlerCallDetails) -> LeptonError | None:
        try:
            caller = Hello.from_metadata(details.invocation_metadata or ())
        except ValueError as error:
            found: LeptonError | None = WrongSwarm(f"this peer belongs to swarm {self._mine.swarm!r}: {error}")
        else:
            found = mismatch(self._mine, caller, "this peer")
        if found is not None:
            self._say(str(found), details.method)
        return found

    def _say(self, reason: str, method: str) -> None:
        if reason not in self._said and len(self._said) < _MAX_NAMED:
            self._said.add(reason)
            _log.warning("refused a call", reason=reason, method=method)

    def _refusal(self, handler: Handler, error: LeptonError) -> Handler:
        async def refuse(_: object, context: Context) -> None:
            await abort_with(context, error, *self._mine.to_metadata())

        # The replacement must be of the same arity as what it replaces; all our calls take one request.
        make = (
            grpc.unary_stream_rpc_method_handler if handler.response_streaming else grpc.unary_unary_rpc_method_handler
        )
        # Without a deserializer the body stays bytes that nobody looks at.
        return make(refuse, None, handler.response_serializer)
