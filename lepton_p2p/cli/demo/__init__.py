"""``lepton-peer demo``: a swarm on this machine that loses its first peer, gains a fresh one, and still learns."""

from lepton_p2p.cli.demo.command import demo

__all__ = ["demo"]
