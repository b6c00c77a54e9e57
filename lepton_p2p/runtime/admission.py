"""How a starting peer comes by its credentials: from its folder, or from an issuer, with a token."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from lepton_p2p.credentials.bearer import read_bearer
from lepton_p2p.credentials.certificates import Certificate, Holder, now
from lepton_p2p.credentials.enrolment import accept, usable_name, write_request
from lepton_p2p.credentials.folder import KeysFolder
from lepton_p2p.credentials.keys import new_key
from lepton_p2p.credentials.tokens import read_token
from lepton_p2p.errors import ConfigError, CredentialsRefused, LeptonError, SwarmUnreachable, WrongSwarm
from lepton_p2p.identity import short
from lepton_p2p.transport.addresses import expand
from lepton_p2p.transport.channels import Channels
from lepton_p2p.transport.security import Security

_log = structlog.get_logger(__name__)
_AGAIN = (0.5, 8.0)
"""Seconds before seeds that did not answer are asked again: at first, at most."""
_MAX_ASKED = 64
"""Peers that are asked in one go, those that others named included."""


@dataclass(frozen=True, slots=True)
class Applicant:
    """Who wants in: ``folder`` (None: credentials are kept in memory only), ``token`` and whom to ask."""

    swarm: str
    folder: Path | None
    token: str | None = field(repr=False)
    seeds: tuple[str, ...]
    timeout: float
    """Seconds for one call."""


async def obtain(applicant: Applicant, *, needed: bool) -> Holder | None:
    """This machine's credentials, valid now; None if it has none and no token (and ``needed`` is false).

    A token is used only if the folder holds no valid credentials, so that it may stay in the environment of a peer that
    starts again.  Seeds that do not answer are tried until the token expires.  Raises :class:`ConfigError`,
    :class:`CredentialsRefused`, :class:`WrongSwarm`, and what the seeds answer.
    """
    folder = KeysFolder(applicant.folder) if applicant.folder is not None else None
    if folder is not None and folder.has_node:
        held = folder.node()
        _check_swarm(held, applicant.swarm)
        try:
            read_bearer(held.chain, held.authority, now())
            return held
        except CredentialsRefused:
            if applicant.token is None:
                raise
            _log.warning("the credentials in the folder are not valid; asking for new ones", folder=str(folder.path))
    if applicant.token is not None:
        return await _enrol(applicant, folder, read_token(applicant.token))
    if needed:
        assert folder is not None
        folder.node()  # says what is missing
    return None


async def _enrol(applicant: Applicant, folder: KeysFolder | None, invite: Holder) -> Holder:
    _check_swarm(invite, applicant.swarm)
    if not applicant.seeds:
        raise ConfigError("a token is for joining: name a peer of the swarm with --join")
    key = new_key() if folder is None else folder.node_key()
    request = write_request(invite.swarm, usable_name(socket.gethostname()), key)
    delay = _AGAIN[0]
    async with Channels(swarm=invite.swarm, security=Security(invite)) as channels:
        while not (chain := await _ask_around(channels, applicant, request, loudly=delay == _AGAIN[0])):
            await asyncio.sleep(delay)
            delay = min(2 * delay, _AGAIN[1])
            read_bearer(invite.chain, invite.authority, now())  # raises when there is no more use in waiting
    node = accept(chain, key, invite.authority)
    if folder is not None:
        await asyncio.to_thread(folder.store, node)
    _log.info("this machine is a node of the swarm now", node=short(node.id), kept=folder is not None)
    return node


async def _ask_around(
    channels: Channels, applicant: Applicant, request: bytes, *, loudly: bool
) -> tuple[Certificate, ...]:
    """The chain that the first of the seeds grants, or of the issuers that they name; empty if one may do so later.

    If all refuse for good, the first refusal is raised; ``loudly``: otherwise it is a warning that none has granted.
    """
    waiting, asked = deque(await expand(applicant.seeds, mine="")), set[str]()
    refusals, reasons = list[LeptonError](), list[str]()
    while waiting and len(asked) < _MAX_ASKED:
        address = waiting.popleft()
        if address in asked:
            continue
        asked.add(address)
        try:
            answer = await channels.enrol(address, request, timeout=applicant.timeout)
        except SwarmUnreachable as error:
            diagnosis = await channels.diagnose(address, applicant.timeout)
            refusals += [diagnosis] if diagnosis is not None else []
            reasons += [str(error)] if diagnosis is None else []
        except LeptonError as error:
            refusals.append(error)
        else:
            if answer.chain:
                return answer.chain
            waiting += answer.issuers
            reasons.append(f"the peer at {address} may not certify others")
    if refusals and not reasons:
        raise refusals[0]
    if loudly:
        why = "; ".join((*reasons, *map(str, refusals)))
        _log.warning("nobody can certify this machine yet; trying until the token expires", why=why)
    return ()


def _check_swarm(held: Holder, swarm: str) -> None:
    if held.swarm != swarm:
        raise WrongSwarm(f"these credentials are of swarm {held.swarm!r}, not {swarm!r}: use --swarm {held.swarm}")
