"""The committed stubs are what ``protos/`` says, and the check that says so can fail."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from lepton_p2p.proto.lepton.v1 import membership_pb2, swarm_pb2, swarm_pb2_grpc

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def gen_protos() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gen_protos", ROOT / "scripts" / "gen_protos.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_committed_stubs_are_what_the_protos_say(gen_protos: ModuleType) -> None:
    assert gen_protos.main(["--check"]) == 0


def test_the_check_names_a_stub_that_differs(
    gen_protos: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = {**gen_protos.generate(), "lepton/v1/more_pb2.py": "x = 1\n"}
    monkeypatch.setattr(gen_protos, "generate", lambda: changed)
    assert gen_protos.main(["--check"]) == 1
    assert "lepton/v1/more_pb2.py" in capsys.readouterr().err


def test_stubs_live_inside_the_package() -> None:
    assert membership_pb2.Packet.__module__.startswith("lepton_p2p.proto.")
    assert swarm_pb2.DESCRIPTOR.package == "lepton.v1"
    assert hasattr(swarm_pb2_grpc, "SwarmStub")
