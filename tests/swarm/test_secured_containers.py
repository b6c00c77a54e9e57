"""The compose swarm with credentials: who has a token trains, who is only on the network gets nothing."""

from __future__ import annotations

import pytest
from composed_swarm import ComposedSwarm

from lepton_p2p.errors import CredentialsRefused

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(900)]


def test_containers_with_a_token_train_and_one_without_gets_nothing(secured: ComposedSwarm) -> None:
    assert "made swarm lepton" in secured.run("keys", "init")
    secured.token = secured.run("keys", "invite")
    peers = secured.up(peers=2)
    secured.wait_for_one_epoch(peers)
    secured.wait_for_progress(peers)

    for argv in (("status", "seed:7700"), ("--join", "seed:7700", "--listen", "0.0.0.0:7700", "--insecure")):
        refused = secured.stranger(*argv)
        assert refused.returncode == CredentialsRefused.exit_code, refused
        assert "has credentials: join with a token" in refused.stderr

    secured.wait_for_progress(peers)
