"""Statuses for tests of the command line."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.membership.messages import Status
from lepton_p2p.transport.values import MemberStatus, Phase, StatusReport


def a_member(number: int, *, in_epoch: bool = True, status: Status = Status.ALIVE) -> MemberStatus:
    return MemberStatus(
        PeerInfo(PeerId(f"{number:08x}" + 24 * "0"), f"127.0.0.1:{7700 + number}"), status, number, in_epoch
    )


def a_status(number: int = 1, **changes: Any) -> StatusReport:
    """What peer ``number`` of three says in the middle of the training, but for ``changes``."""
    report = StatusReport(
        peer=a_member(number).peer,
        version="0.1",
        swarm="lepton",
        phase=Phase.TRAINING,
        members=(a_member(1), a_member(2), a_member(3, in_epoch=False, status=Status.SUSPECT)),
        epoch=4,
        round=120,
        step=118,
        data_pass=3,
        loss=0.25,
        samples_per_second=5120.4,
        metrics={"accuracy": 0.9625},
        rounds_done=119,
        rounds_retried=1,
        params_digest="00ff00ff00ff00ff",
        job_name="digits",
        job_digest="ab" * 32,
        uptime=12.5,
    )
    return replace(report, **changes)
