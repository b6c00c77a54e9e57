"""What people and programs see of a status."""

from __future__ import annotations

import io
import json
from dataclasses import replace

from cli_samples import a_member, a_status
from rich.console import Console, RenderableType

from lepton_p2p.cli.views import loss_text, metrics_text, status_line, status_panel, status_to_dict
from lepton_p2p.transport.values import Phase


def drawn(what: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=140)
    console.print(what)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_json_has_every_field_under_its_stable_name() -> None:
    table = json.loads(json.dumps(status_to_dict(a_status())))
    assert table["peer"] == "00000001" + 24 * "0"
    assert table["address"] == "127.0.0.1:7701"
    assert (table["phase"], table["epoch"], table["round"], table["step"], table["pass"]) == (
        "training",
        4,
        120,
        118,
        3,
    )
    assert (table["loss"], table["metrics"]) == (0.25, {"accuracy": 0.9625})
    assert (table["rounds_done"], table["rounds_retried"], table["rounds_lost"]) == (119, 1, 0)
    assert table["params_digest"] == "00ff00ff00ff00ff"
    assert table["last_recovery_seconds"] is None
    assert table["claims_refused"] == 0
    assert table["members"][2] == {
        "peer": "00000003" + 24 * "0",
        "address": "127.0.0.1:7703",
        "status": "suspect",
        "incarnation": 3,
        "in_epoch": False,
        "node": "",
        "node_name": "",
    }


def test_refused_claims_are_shown_if_there_are_any() -> None:
    assert "refused" not in drawn(status_panel(a_status()))
    assert "7 refused" in drawn(status_panel(a_status(claims_refused=7)))


def test_a_line_says_what_matters_now() -> None:
    assert status_line(a_status()) == (
        "training, epoch 4, members 2, step 118, loss 0.2500, 5120 samples/s, test accuracy 0.9625"
    )
    idle = a_status(phase=Phase.IDLE, epoch=0, step=0, loss=None, samples_per_second=0.0, metrics={}, members=())
    assert status_line(idle) == "idle, epoch 0, members 0, step 0"


def test_the_digest_is_in_the_line_when_it_is_final() -> None:
    assert "00ff" not in status_line(a_status())
    assert status_line(a_status(phase=Phase.DONE)).endswith("digest 00ff00ff00ff00ff")


def test_the_panel_shows_numbers_and_members_and_marks_the_peer_itself() -> None:
    text = drawn(status_panel(a_status()))
    assert "peer 00000001 at 127.0.0.1:7701, swarm lepton" in text
    assert "119 done, 1 retried, 0 lost" in text
    assert "118 (pass 3)" in text
    assert text.count("(this one)") == 1
    assert "suspect" in text


def test_the_panel_names_machines_where_there_are_credentials() -> None:
    assert "machine" not in drawn(status_panel(a_status()))
    known = replace(a_member(1), node="ab" * 16, node_name="laptop")
    text = drawn(status_panel(a_status(members=(known, a_member(2)))))
    assert "machine" in text
    assert "laptop (abababab)" in text


def test_text_from_the_network_is_not_read_as_markup() -> None:
    text = drawn(status_panel(a_status(job_name="[red]odd[/red]", members=(a_member(1),))))
    assert "[red]odd[/red]" in text


def test_numbers_that_are_not_there_are_dashes() -> None:
    assert loss_text(None) == "-"
    assert metrics_text({}) == ""
    assert metrics_text({"mse": 0.5, "accuracy": 1.0}) == "accuracy 1.0000 mse 0.5000"
