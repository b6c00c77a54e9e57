"""The one exception tree.

Everything that this package raises on purpose is a :class:`LeptonError`.  Each class carries the exit code
that ``lepton-peer`` ends with when the error reaches the command line, so that a code means one thing
everywhere (the table in README.md is generated from here and a test keeps it so).
"""

from __future__ import annotations

from typing import ClassVar


class LeptonError(Exception):
    """Root of everything this package raises on purpose; the message is one line that says what to do."""

    exit_code: ClassVar[int] = 1


class ConfigError(LeptonError):
    """An option, an environment variable or a configuration file has a value that cannot be used."""

    exit_code = 2


class JobError(LeptonError):
    """A job description is malformed, names something unknown, or cannot be built."""

    exit_code = 3


class AddressError(LeptonError):
    """A ``host:port`` that does not parse, or a host name that does not resolve."""

    exit_code = 10


class PortInUse(LeptonError):
    """The address to listen on is taken by another process."""

    exit_code = 11


class SwarmUnreachable(LeptonError):
    """Nobody answers at the address: refused, no route, or timed out."""

    exit_code = 12


class WrongSwarm(LeptonError):
    """The peer at the address belongs to a swarm with another id."""

    exit_code = 13


class ProtocolMismatch(LeptonError):
    """The two sides speak protocol versions that do not work together."""

    exit_code = 14


class JobMismatch(LeptonError):
    """The swarm trains something else than this peer was told to, or from a file with another digest."""

    exit_code = 15


class SchemaMismatch(LeptonError):
    """Tensors (names, shapes, dtypes) or the operation differ between peers; nobody's tensors were changed."""

    exit_code = 16


class InsecureRefused(LeptonError):
    """No credentials: a swarm beyond loopback without ``--insecure``, or links with peers that seal theirs."""

    exit_code = 17


class CredentialsRefused(LeptonError):
    """Credentials are missing, expired, of another swarm, or do not allow what was asked."""

    exit_code = 18


class Revoked(CredentialsRefused):
    """This machine's credentials were revoked: it is no member of the swarm any more."""

    exit_code = 19

    def __init__(self, text: str, statement: bytes = b"") -> None:
        """``statement``: what proves it, signed; empty if nothing does."""
        super().__init__(text)
        self.statement = statement


class RoundRejected(LeptonError):
    """The members agreed that this round has no result; nobody's tensors were changed."""

    exit_code = 20


class Dropped(LeptonError):
    """The swarm went on without this peer; it is rejoining, and its state must be fetched again."""

    exit_code = 21


class IntegrityError(LeptonError):
    """Bytes from the network do not match the digest that the members agreed on."""

    exit_code = 22


class StateLost(LeptonError):
    """The last member that held the state died before a joiner had all of it."""

    exit_code = 23


class Closed(LeptonError):
    """The peer or client was closed, or left the swarm, while the call was waiting."""

    exit_code = 24


class WaitTimeout(LeptonError, TimeoutError):
    """The caller's own time-out passed; nothing was changed."""

    exit_code = 25
