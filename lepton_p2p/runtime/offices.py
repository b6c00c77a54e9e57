"""What a peer with credentials does besides its work: judges claims, spreads revocations, renews its certificate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.membership.messages import Packet, Rumour
from lepton_p2p.runtime.node_credentials import NodeCredentials
from lepton_p2p.runtime.renewing import Renewing
from lepton_p2p.runtime.revoking import Revoker
from lepton_p2p.runtime.vetting import Vetting
from lepton_p2p.tasks import OwnedTasks
from lepton_p2p.transport.channels import Channels


@dataclass(frozen=True, slots=True)
class Offices:
    """For as long as the node runs."""

    vetting: Vetting
    revoker: Revoker


def open_offices(
    credentials: NodeCredentials,
    channels: Channels,
    tasks: OwnedTasks,
    *,
    hear: Callable[[Packet], None],
    news: Callable[[Sequence[Rumour]], Sequence[Rumour]],
    others: Callable[[], Sequence[PeerInfo]],
    expel: Callable[[PeerId | None, str], None],
    fail: Callable[[BaseException], None],
    timeout: float,
) -> Offices:
    """hear: takes packets that were vetted.  news, expel: see :class:`Vetting`, :class:`Revoker`.  others: members that
    can be asked.  fail: this peer is a stranger now.  timeout: of one call (seconds).
    """
    vetting = Vetting(
        credentials, show=lambda to, ids: channels.show(to, ids, timeout), news=news, feed=hear, tasks=tasks
    )
    revoker = channels.revocations = Revoker(
        credentials,
        exchange=lambda to, rows: channels.exchange_revocations(to, rows, timeout),
        expel=expel,
        fail=fail,
        tasks=tasks,
    )
    renewing = Renewing(
        credentials,
        ask=lambda to, request: channels.enrol(to, request, timeout),
        members=others,
        renewed=lambda: channels.reconnect(2 * timeout),
    )
    tasks.spawn(renewing.run(fail), "keep the certificate valid")
    return Offices(vetting, revoker)
