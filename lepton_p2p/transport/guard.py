"""The server's guard in a swarm with credentials: who calls, and may it?

Every call is judged, health and reflection included, before a byte of its request is decoded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from lepton_p2p.credentials.bearer import Bearer
from lepton_p2p.credentials.certificates import Role
from lepton_p2p.errors import CredentialsRefused
from lepton_p2p.transport.faults import Busy, Context
from lepton_p2p.transport.limits import TokenBucket
from lepton_p2p.transport.security import Security

ENROL: Final = "/lepton.v1.Credentials/Enrol"
"""The only call that an invite may make."""
MAX_CALLS_OF_NODE: Final = 256
"""Calls in progress that one node's processes may have on this server: a quarter of all that there can be."""
NEW_PROCESSES: Final = 64
"""Processes of one node that may show up at once; after that one in a second."""
_MAX_NODES: Final = 10_000

_caller: ContextVar[Bearer | None] = ContextVar("lepton_caller", default=None)


def caller() -> Bearer | None:
    """Who makes the call that is being answered; None in a swarm without credentials."""
    return _caller.get()


def check_claim(claimed: str) -> None:
    """Raise :class:`CredentialsRefused` if the caller says that it is ``claimed`` and is not."""
    bearer = _caller.get()
    if bearer is not None and bearer.id != claimed:
        raise CredentialsRefused(f"the call says it comes from {claimed[:8]}, its certificate says {bearer.id[:8]}")


class Guard:
    """clock: monotonic seconds."""

    def __init__(self, security: Security, clock: Callable[[], float]) -> None:
        self._security = security
        self._clock = clock
        self._calls: Counter[str] = Counter()
        self._processes: dict[str, str] = {}
        self._arrivals: dict[str, TokenBucket] = {}

    @contextmanager
    def admitted(self, context: Context, method: str) -> Iterator[Bearer]:
        """For as long as a call runs: judge it, count it, and tell :func:`caller`.

        Raises :class:`CredentialsRefused`, :class:`Revoked` and :class:`Busy`.
        """
        bearer = self._judge(context.auth_context())
        if bearer.role is not Role.PROCESS and method != ENROL:
            raise CredentialsRefused("an invitation is good for enrolling only; enrol first")
        self._count_arrival(bearer)
        if self._calls[bearer.node] >= MAX_CALLS_OF_NODE:
            raise Busy(f"more than {MAX_CALLS_OF_NODE} calls of one node at a time")
        self._calls[bearer.node] += 1
        _caller.set(bearer)  # each call runs in a task, and so in a context, of its own
        try:
            yield bearer
        finally:
            self._calls[bearer.node] -= 1
            if not self._calls[bearer.node]:
                del self._calls[bearer.node]

    def _judge(self, shown: Mapping[str, Iterable[bytes]]) -> Bearer:
        first = {key: next(iter(values), b"") for key, values in shown.items()}
        if first.get("ssl_tls_version") != b"TLSv1.3":
            raise CredentialsRefused("TLS 1.3 is the oldest version that is spoken here")
        return self._security.judge(first.get("x509_pem_cert", b""), first.get("x509_pem_cert_chain", b""))

    def _count_arrival(self, bearer: Bearer) -> None:
        """Processes cost their node nothing and every member a row in its view: not too many at a time."""
        if bearer.id in self._processes:
            return
        bucket = self._arrivals.get(bearer.node)
        if bucket is None:
            if len(self._arrivals) >= _MAX_NODES:
                del self._arrivals[next(iter(self._arrivals))]
            bucket = self._arrivals[bearer.node] = TokenBucket(NEW_PROCESSES, 1.0)
        if not bucket.take(self._clock()):
            raise Busy(f"more than {NEW_PROCESSES} new processes of one node at a time")
        if len(self._processes) >= _MAX_NODES:
            del self._processes[next(iter(self._processes))]
        self._processes[bearer.id] = bearer.node
