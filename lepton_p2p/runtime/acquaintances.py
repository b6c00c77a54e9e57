"""Whose certificates a peer has seen: of processes that called it, and of those that others told it of.

A peer's id is the hash of its key, so that certificates may come from anyone: who passes them on cannot change them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from lepton_p2p.credentials.bearer import Bearer, from_der, read_bearer, to_der
from lepton_p2p.credentials.certificates import Role, now
from lepton_p2p.credentials.keys import PublicKey, check_public_key
from lepton_p2p.errors import CredentialsRefused, Revoked
from lepton_p2p.transport.guard import NEW_PROCESSES
from lepton_p2p.transport.limits import TokenBucket
from lepton_p2p.transport.security import Security

MOST: Final = 20_000
"""Processes that are remembered: twice as many as a view has rows."""

Chain = tuple[bytes, ...]
"""Certificates in DER: the process's, then those above it."""


@dataclass(frozen=True, slots=True)
class _Acquaintance:
    bearer: Bearer
    key: PublicKey


class Acquaintances:
    """Certificates of the swarm's processes, verified.  clock: monotonic seconds."""

    def __init__(self, security: Security, clock: Callable[[], float]) -> None:
        self._security = security
        self._clock = clock
        self._known: dict[str, _Acquaintance] = {}
        self._arrivals: dict[str, TokenBucket] = {}
        self._own = _met(read_bearer(security.holder.chain, security.holder.authority, now()))

    def renew(self, bearer: Bearer) -> None:
        """This process has a newer certificate."""
        self._own = _met(bearer)

    def knows(self, process: str) -> bool:
        """Whether a certificate of it has been seen that has not expired."""
        return self._find(process) is not None

    def key_of(self, process: str) -> PublicKey | None:
        """Its key, if it is known, and its certificate valid at this moment and not revoked."""
        found = self._find(process)
        if found is None:
            return None
        try:
            self._security.check(found.bearer)
        except Revoked:
            return None
        return found.key

    def processes_of(self, node: str) -> frozenset[str]:
        """Ids of the known processes that belong to ``node``, or to one that it has certified."""
        return frozenset(process for process, found in self._known.items() if node in found.bearer.nodes)

    def chains(self, processes: Iterable[str]) -> tuple[Chain, ...]:
        """The certificates of those of ``processes`` that are known."""
        found = map(self._find, processes)
        return tuple(to_der(one.bearer.chain) for one in found if one is not None)

    def verify(self, chains: Iterable[Chain]) -> list[Bearer]:
        """The good ones; changes nothing, so that any thread may do it (half a millisecond each)."""
        good = []
        for chain in chains:
            with contextlib.suppress(CredentialsRefused, ValueError):
                good.append(read_bearer(from_der(chain), self._security.holder.authority, now()))
        return good

    def introduce(self, bearers: Sequence[Bearer], asked: frozenset[str]) -> None:
        """Keep those that were ``asked`` for.  Of one node not too many at a time: its processes cost it nothing."""
        for bearer in bearers:
            if bearer.id in asked and bearer.role is Role.PROCESS and not self.knows(bearer.id):
                bucket = self._arrivals.get(bearer.node)
                if bucket is None:
                    if len(self._arrivals) >= MOST:
                        del self._arrivals[next(iter(self._arrivals))]
                    bucket = self._arrivals[bearer.node] = TokenBucket(NEW_PROCESSES, 1.0)
                if bucket.take(self._clock()):
                    self._keep(bearer)

    def _find(self, process: str) -> _Acquaintance | None:
        """Those that called are taken over from where calls are judged."""
        found = self._own if process == self._own.bearer.id else self._known.get(process)
        if found is not None and found.bearer.expires > now():
            return found
        bearer = self._security.caller(process)
        if bearer is None or bearer.role is not Role.PROCESS or bearer.expires <= now():
            return None
        return self._keep(bearer)

    def _keep(self, bearer: Bearer) -> _Acquaintance:
        if len(self._known) >= MOST:
            del self._known[next(iter(self._known))]
        found = self._known[bearer.id] = _met(bearer)
        return found


def _met(bearer: Bearer) -> _Acquaintance:
    return _Acquaintance(bearer, check_public_key(bearer.chain[0].public_key()))
