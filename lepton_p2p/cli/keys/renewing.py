"""A newer certificate for a node, from a member that may issue."""

from __future__ import annotations

from lepton_p2p.credentials.certificates import Holder, make_process, name_of
from lepton_p2p.credentials.enrolment import accept, write_request
from lepton_p2p.errors import CredentialsRefused, SwarmUnreachable
from lepton_p2p.transport.channels import Channels
from lepton_p2p.transport.security import Security


async def renewed(address: str, node: Holder) -> Holder:
    """``node`` with a newer certificate; :class:`CredentialsRefused` if the member at ``address`` gives none."""
    request = write_request(node.swarm, name_of(node.certificate), node.key)
    async with Channels(swarm=node.swarm, security=Security(make_process(node))) as channels:
        try:
            answer = await channels.enrol(address, request)
        except SwarmUnreachable as error:
            raise await channels.diagnose(address) or error from None
    if not answer.chain:
        others = f": ask one of {', '.join(answer.issuers)}" if answer.issuers else ""
        raise CredentialsRefused(f"the member at {address} may not certify{others}")
    return accept(answer.chain, node.key, node.authority)
