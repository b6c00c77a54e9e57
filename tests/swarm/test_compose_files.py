"""What docker-compose makes of the compose files; no container is started."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
import yaml
from composed_swarm import command

pytestmark = pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose not installed")


def services(*files: str, token: str = "") -> dict[str, dict[str, Any]]:
    words = [word for name in files for word in ("-f", name)]
    config = yaml.safe_load(command("docker-compose", *words, "config", environment={"LEPTON_TOKEN": token}))
    found: dict[str, dict[str, Any]] = json.loads(json.dumps(config["services"]))
    return found


def test_without_credentials_the_network_is_closed_and_peers_say_so() -> None:
    for service in services("docker-compose.yml").values():
        assert service["environment"]["LEPTON_INSECURE"] == "true"
        assert list(service["networks"]) == ["swarm"]


def test_with_credentials_no_service_is_insecure_and_every_one_finds_its_keys_and_its_token() -> None:
    plain = services("docker-compose.yml")
    secure = services("docker-compose.yml", "docker-compose.secure.yml", token="lepton1.abc")
    assert secure.keys() == plain.keys() == {"seed", "peer"}
    for name, service in secure.items():
        environment = service["environment"]
        assert environment["LEPTON_INSECURE"] == "false"
        # Where a peer with this state directory keeps what it is granted.
        assert environment["LEPTON_KEYS"] == environment["LEPTON_STATE_DIR"] + "/keys"
        assert service["command"] == plain[name]["command"]
    assert secure["peer"]["environment"]["LEPTON_TOKEN"] == "lepton1.abc"
    assert "LEPTON_TOKEN" not in secure["seed"]["environment"], "it has the authority"
    assert secure["seed"]["volumes"] == ["authority:/var/lib/lepton:rw"]
    assert "volumes" not in secure["peer"], "each container is a machine of its own"
