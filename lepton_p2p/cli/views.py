"""What people and programs see of a swarm: one line, a rich panel, or JSON, all from one status report.

Text that came over the network is wrapped in ``Text``, so that brackets in it stay brackets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from lepton_p2p.identity import short
from lepton_p2p.membership.messages import Status
from lepton_p2p.transport.values import CheckpointInfo, MemberStatus, Phase, StatusReport

_PHASE_STYLE = {Phase.IDLE: "dim", Phase.JOINING: "yellow", Phase.TRAINING: "green", Phase.DONE: "bold green"}
_STATUS_STYLE = {Status.ALIVE: "green", Status.SUSPECT: "yellow", Status.DEAD: "red", Status.LEFT: "dim"}


def member_to_dict(member: MemberStatus) -> dict[str, Any]:
    """A member as JSON has it."""
    return {
        "peer": member.peer.id,
        "address": member.peer.address,
        "status": member.status.name.lower(),
        "incarnation": member.incarnation,
        "in_epoch": member.in_epoch,
        "node": member.node,
        "node_name": member.node_name,
    }


def status_to_dict(status: StatusReport) -> dict[str, Any]:
    """A status as ``lepton-peer status --json`` prints it; the keys are stable, new ones may come."""
    return {
        "peer": status.peer.id,
        "address": status.peer.address,
        "version": status.version,
        "swarm": status.swarm,
        "phase": status.phase.value,
        "epoch": status.epoch,
        "round": status.round,
        "step": status.step,
        "pass": status.data_pass,
        "loss": status.loss,
        "samples_per_second": status.samples_per_second,
        "metrics": dict(status.metrics),
        "rounds_done": status.rounds_done,
        "rounds_retried": status.rounds_retried,
        "rounds_lost": status.rounds_lost,
        "params_digest": status.params_digest,
        "job_digest": status.job_digest,
        "job_name": status.job_name,
        "uptime": status.uptime,
        "last_recovery_seconds": status.last_recovery_seconds,
        "checkpoint": None if status.checkpoint is None else dataclasses.asdict(status.checkpoint),
        "claims_refused": status.claims_refused,
        "members": [member_to_dict(member) for member in status.members],
    }


def members_in_epoch(status: StatusReport) -> int:
    """How many peers train together, says ``status``."""
    return sum(member.in_epoch for member in status.members)


def loss_text(loss: float | None) -> str:
    """Four digits, or a dash before the first step."""
    return "-" if loss is None else f"{loss:.4f}"


def metrics_text(metrics: Mapping[str, float]) -> str:
    """``accuracy 0.9733 loss 0.1000``, by name."""
    return " ".join(f"{name} {value:.4f}" for name, value in sorted(metrics.items()))


def checkpoint_text(checkpoint: CheckpointInfo | None) -> str:
    """``step 300, 12 s ago``, and whether writing one failed since."""
    if checkpoint is None:
        return "-"
    last = f"step {checkpoint.step}, {checkpoint.age:.0f} s ago" if checkpoint.size else "none"
    return f"{last} ({checkpoint.failures} failed since)" if checkpoint.failures else last


def status_line(status: StatusReport) -> str:
    """The state of a peer in one plain line."""
    parts = [status.phase.value, f"epoch {status.epoch}", f"members {members_in_epoch(status)}", f"step {status.step}"]
    if status.loss is not None:
        parts.append(f"loss {loss_text(status.loss)}")
    if status.samples_per_second:
        parts.append(f"{status.samples_per_second:.0f} samples/s")
    if status.metrics:
        parts.append(f"test {metrics_text(status.metrics)}")
    if status.phase is Phase.DONE and status.params_digest:
        parts.append(f"digest {status.params_digest}")
    return ", ".join(parts)


def _numbers(status: StatusReport) -> Table:
    table = Table.grid(padding=(0, 2))
    for _ in range(2):
        table.add_column(style="dim")
        table.add_column(min_width=14)
    retried = f"{status.rounds_done} done, {status.rounds_retried} retried, {status.rounds_lost} lost"
    table.add_row(
        "phase", Text(status.phase.value, style=_PHASE_STYLE[status.phase]), "job", Text(status.job_name or "-")
    )
    table.add_row("epoch", str(status.epoch), "rounds", retried)
    table.add_row("step", f"{status.step} (pass {status.data_pass})", "loss", loss_text(status.loss))
    table.add_row("samples/s", f"{status.samples_per_second:.0f}", "test", Text(metrics_text(status.metrics) or "-"))
    table.add_row("digest", Text(status.params_digest or "-"), "checkpoint", checkpoint_text(status.checkpoint))
    if status.claims_refused:
        table.add_row("claims", f"{status.claims_refused} refused", "", "")
    return table


def _members(status: StatusReport) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="dim")
    machines = any(member.node for member in status.members)
    for title in ("peer", "address", "status", "in epoch", *(("machine",) if machines else ())):
        table.add_column(title, overflow="fold")  # an address that is cut short is of no use
    for member in status.members:
        here = " (this one)" if member.peer.id == status.peer.id else ""
        table.add_row(
            short(member.peer.id) + here,
            Text(member.peer.address),
            Text(member.status.name.lower(), style=_STATUS_STYLE[member.status]),
            "yes" if member.in_epoch else "no",
            *([Text(f"{member.node_name} ({short(member.node)})" if member.node else "-")] if machines else []),
        )
    return table


def status_panel(status: StatusReport) -> RenderableType:
    """The state of a peer for a terminal: its numbers, and the members that it sees."""
    title = Text(f"peer {short(status.peer.id)} at {status.peer.address}, swarm {status.swarm}")
    return Panel(Group(_numbers(status), Text(), _members(status)), title=title, title_align="left", expand=False)
