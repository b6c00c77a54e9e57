"""``lepton-peer keys``: the credentials of a swarm."""

from lepton_p2p.cli.keys.commands import keys

__all__ = ["keys"]
