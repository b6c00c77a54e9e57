"""What is told of a story: the same words in every process."""

from __future__ import annotations

import re

from lepton_p2p.simulation.peer import VirtualPeer

_SET = re.compile(r"frozenset\(\{([^}]*)\}\)")


def plain(detail: object) -> str:
    """As text; sets in order."""
    return _SET.sub(lambda found: "{" + ", ".join(sorted(found[1].split(", "))) + "}", str(detail))


def where(peer: VirtualPeer) -> str:
    """How far a process has come."""
    epoch, progress = peer.agreement.epoch, peer.agreement.progress
    number = "no epoch" if epoch is None else f"epoch {epoch.number} of {len(epoch.ids)}"
    footing = f"carries {peer.trainer.carried}, " if peer.trainer.carried else ""
    footing += "established" if peer.trainer.footing.established else "not established"
    return f"{peer} in {number}, round {progress.completed}, {footing}"
