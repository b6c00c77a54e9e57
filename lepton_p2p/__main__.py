"""``python -m lepton_p2p`` is ``lepton-peer``."""

from lepton_p2p.cli import main

main()
