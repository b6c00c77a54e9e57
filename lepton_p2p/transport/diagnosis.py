"""Why a connection does not come about: gRPC only says that it was closed; a handshake of our own says more."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from typing import Final

from lepton_p2p.credentials.bearer import read_bearer, to_pem
from lepton_p2p.credentials.certificates import Holder, now, swarm_of
from lepton_p2p.errors import CredentialsRefused
from lepton_p2p.identity import split_address

# X509_V_ERR_* of OpenSSL.
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10


async def diagnose(address: str, holder: Holder | None, timeout: float) -> CredentialsRefused | None:
    """What is wrong with the credentials of either side; None if it is something else, or nothing."""
    if holder is not None:
        try:
            read_bearer(holder.chain, holder.authority, now())
        except CredentialsRefused as error:
            return error
    try:
        async with asyncio.timeout(timeout):
            await _handshake(address, holder)
    except ssl.SSLCertVerificationError as error:
        return CredentialsRefused(_certificate_refused(address, holder, error.verify_code))
    except ssl.SSLError:
        if holder is None:
            return None
        return CredentialsRefused(
            f"the peer at {address} has no credentials, and this one has: start both with --keys or --token, or neither"
        )
    except (OSError, TimeoutError, UnicodeError):
        return None
    if holder is None:
        return CredentialsRefused(
            f"the swarm at {address} has credentials: join with a token (LEPTON_TOKEN, --token-file), or with --keys"
        )
    return None


def _certificate_refused(address: str, holder: Holder | None, code: int) -> str:
    if code == _EXPIRED:
        return f"the certificate of the peer at {address} has expired: is this machine's clock wrong?"
    if code == _NOT_YET_VALID:
        return f"the certificate of the peer at {address} is not valid yet: is this machine's clock wrong?"
    swarm = swarm_of(holder.authority) if holder is not None else ""
    return (
        f"the peer at {address} belongs to another swarm: these credentials are of swarm {swarm!r} "
        "with another authority"
    )


async def _handshake(address: str, holder: Holder | None) -> None:
    """TLS up to the end of the handshake; no certificate is shown, so that the server hangs up after it."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname = False  # certificates of a swarm name no hosts
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    tls.set_alpn_protocols(["h2"])
    if holder is None:
        tls.verify_mode = ssl.CERT_NONE
    else:
        tls.load_verify_locations(cadata=to_pem([holder.authority]).decode("ascii"))
    host, port = split_address(address)
    _, writer = await asyncio.open_connection(host, port, ssl=tls)
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
