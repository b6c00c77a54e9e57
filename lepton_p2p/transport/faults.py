"""Errors across a call: an exception of our tree goes out as a status and comes back as the same class.

The class travels by name in the trailing metadata ``lepton-error``; names are looked up in ``errors.py`` and
nowhere else.  What gRPC itself reports (refused, no such host, too late) becomes the class that says so.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

import grpc
import structlog

from lepton_p2p import errors
from lepton_p2p.errors import AddressError, Closed, LeptonError, ProtocolMismatch, SwarmUnreachable
from lepton_p2p.identity import split_address
from lepton_p2p.transport.metadata import Hello, mismatch
from lepton_p2p.transport.wire_common import clip

_log = structlog.get_logger(__name__)

ERROR_KEY: Final = "lepton-error"
STATEMENT_KEY: Final = "lepton-revocation-bin"
"""With a refusal because of a revocation: the signed statement."""
MAX_DETAILS: Final = 1000
"""Characters of an error's text on the wire."""

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]
else:  # at run time grpc's classes take no parameters
    Context = grpc.aio.ServicerContext

_CLASSES: Final = {
    name: found for name, found in vars(errors).items() if isinstance(found, type) and issubclass(found, LeptonError)
}
_CODES: Final = (
    (Closed, grpc.StatusCode.UNAVAILABLE),
    (errors.CredentialsRefused, grpc.StatusCode.PERMISSION_DENIED),
)
_LAST_ERROR = re.compile(r"last error: (?:[A-Z_]+: )?(?P<why>.*)", re.DOTALL)
_UNRESOLVED = re.compile(r"resolution failed|errors resolving|lookup (failed|error)", re.IGNORECASE)
_REFUSED = re.compile(r"connection refused", re.IGNORECASE)


class Malformed(ValueError):
    """A request that ``wire_*`` refused."""


class Busy(Exception):
    """Too much of something at a time; the caller may come back later."""


@asynccontextmanager
async def answering(context: Context, method: str) -> AsyncIterator[None]:
    """Run a servicer's body: what it raises ends the call with the status that tells the caller."""
    try:
        yield
    except LeptonError as error:
        await abort_with(context, error)
    except Malformed as error:
        _log.debug("refused a malformed request", method=method, caller=context.peer(), reason=str(error))
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, clip(str(error), MAX_DETAILS))
    except Busy as error:
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, clip(str(error), MAX_DETAILS))
    except grpc.aio.AbortError:
        raise
    except Exception as error:
        _log.exception("a handler failed; this is a bug", method=method)
        await context.abort(
            grpc.StatusCode.INTERNAL, f"{method} failed with {type(error).__name__}; see the peer's log"
        )


async def abort_with(context: Context, error: LeptonError, *more: tuple[str, str | bytes]) -> NoReturn:
    """End the call with ``error``: its class and ``more`` in the trailing metadata."""
    name = next(cls.__name__ for cls in type(error).__mro__ if cls.__name__ in _CLASSES)
    code = next((code for kind, code in _CODES if isinstance(error, kind)), grpc.StatusCode.FAILED_PRECONDITION)
    if isinstance(error, errors.Revoked) and error.statement:
        more = (*more, (STATEMENT_KEY, error.statement))
    await context.abort(code, clip(str(error), MAX_DETAILS), ((ERROR_KEY, name), *more))
    raise AssertionError("abort returned")  # pragma: no cover - grpc always raises


def from_status(error: grpc.aio.AioRpcError, *, to: str, timeout: float | None, mine: Hello) -> LeptonError:
    """The exception of our tree for a call to ``to`` that failed after at most ``timeout`` seconds."""
    details = clip(error.details() or "", MAX_DETAILS)
    trailing = _trailing(error)
    name = dict(trailing).get(ERROR_KEY)
    if name is not None:
        return _refused_by_peer(name, details, trailing, to=to, mine=mine)
    match error.code():
        case grpc.StatusCode.UNAVAILABLE:
            return _unavailable(details, to)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return SwarmUnreachable(f"{to} did not answer within {timeout or 0.0:g} s")
        case grpc.StatusCode.UNIMPLEMENTED:
            return ProtocolMismatch(f"{to} does not offer this call: is it a lepton peer, and of which version?")
        case grpc.StatusCode.INVALID_ARGUMENT:
            return ProtocolMismatch(f"{to} refused the request as malformed: {details}")
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return SwarmUnreachable(f"{to} is overloaded or the message is too large: {details}")
        case grpc.StatusCode.CANCELLED:
            return SwarmUnreachable(f"{to} ended the call: it is shutting down")
        case code:
            return LeptonError(f"{to} failed: {details or code.name}")


def broke_off(error: LeptonError) -> bool:
    """Whether ``error`` comes from a connection that broke under a call: that says nothing yet about the peer."""
    cause = error.__context__
    return (
        isinstance(cause, grpc.aio.AioRpcError)
        and cause.code() is grpc.StatusCode.UNAVAILABLE
        and ERROR_KEY not in dict(_trailing(cause))
        and not _REFUSED.search(cause.details() or "")
    )


def _trailing(error: grpc.aio.AioRpcError) -> tuple[tuple[str, str | bytes], ...]:
    return cast("tuple[tuple[str, str | bytes], ...]", tuple(error.trailing_metadata() or ()))


def _refused_by_peer(
    name: str | bytes, details: str, trailing: tuple[tuple[str, str | bytes], ...], *, to: str, mine: Hello
) -> LeptonError:
    """The peer's own exception; a mismatch is worded anew, for only this side knows both values and the address."""
    found = _CLASSES.get(name if isinstance(name, str) else "", LeptonError)
    if found in (ProtocolMismatch, errors.WrongSwarm):
        try:
            reworded = mismatch(Hello.from_metadata(trailing), mine, to)
        except ValueError:
            reworded = None
        if reworded is not None:
            return reworded
    if found is errors.Revoked:
        statement = dict(trailing).get(STATEMENT_KEY)
        return errors.Revoked(details or f"{to} refused", statement if isinstance(statement, bytes) else b"")
    return found(details or f"{to} refused")


def _unavailable(details: str, to: str) -> LeptonError:
    if _UNRESOLVED.search(details):
        host, _ = split_address(to)
        return AddressError(f"the host name {host!r} does not resolve: check the spelling, or use an IP address")
    if _REFUSED.search(details):
        return SwarmUnreachable(f"nobody answers at {to}: connection refused; is a peer running there?")
    found = _LAST_ERROR.search(details)
    why = (found.group("why") if found else details).strip() or "connection lost"
    return SwarmUnreachable(f"nobody answers at {to}: {clip(why, 200)}")
