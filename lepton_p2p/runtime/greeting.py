"""The first calls of a starting peer: they tell the user now what would otherwise only be a warning later."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from lepton_p2p.errors import (
    AddressError,
    CredentialsRefused,
    LeptonError,
    ProtocolMismatch,
    Revoked,
    SwarmUnreachable,
    WrongSwarm,
)
from lepton_p2p.runtime.node_credentials import NodeCredentials
from lepton_p2p.transport.channels import Channels


class Greeting:
    """One call to each seed, of at most ``timeout`` seconds."""

    def __init__(self, channels: Channels, credentials: NodeCredentials | None, timeout: float) -> None:
        self._channels = channels
        self._credentials = credentials
        self._timeout = timeout

    async def to(self, seeds: Sequence[str], *, others_known: bool) -> None:
        """Raise what makes joining by ``seeds`` impossible; those that only do not answer are no error.

        others_known: whether there is somebody else to ask if the name of no seed resolves.
        """
        answers = await asyncio.gather(*(self._greet(seed) for seed in seeds))
        problems = [problem for problem in answers if problem is not None]
        fatal = next((p for p in problems if not isinstance(p, AddressError)), None)
        if fatal is None and problems and len(problems) == len(seeds) and not others_known:
            fatal = problems[0]
        if fatal is not None:
            raise fatal

    async def _greet(self, seed: str) -> LeptonError | None:
        try:
            await self._channels.members(seed, timeout=self._timeout)
        except Revoked as error:
            # One that lies could keep a machine out for good: it has to show the statement.
            return error if self._credentials is not None and self._credentials.revoked_by(error.statement) else None
        except (WrongSwarm, ProtocolMismatch, AddressError, CredentialsRefused) as error:
            return error
        except SwarmUnreachable:
            return await self._channels.diagnose(seed, timeout=self._timeout)
        except LeptonError:
            return None
        return None
