"""The demo on the screen."""

from __future__ import annotations

import io
from pathlib import Path
from typing import cast

from cli_samples import a_member, a_status
from rich.console import Console

from lepton_p2p.cli.demo.display import LINE_SECONDS, Display, peers_line, peers_table
from lepton_p2p.cli.demo.observer import Watched
from lepton_p2p.cli.demo.processes import Process
from lepton_p2p.client import Client
from lepton_p2p.transport.values import StatusReport


def watched(number: int, last: StatusReport | None, *, killed: bool = False) -> Watched:
    process = Process(f"peer{number}", cast("object", None), Path("log"))  # type: ignore[arg-type]
    return Watched(process, f"127.0.0.1:{7700 + number}", cast("Client", None), killed, last)


PEERS = [
    watched(1, a_status(1, step=40), killed=True),
    watched(2, a_status(2, step=57)),
    watched(3, a_status(3, step=60, loss=0.125)),
    watched(4, None),
]


def test_the_table_has_a_row_for_every_peer_the_killed_one_included() -> None:
    console = Console(file=io.StringIO(), width=160)
    console.print(peers_table(PEERS))
    assert isinstance(console.file, io.StringIO)
    rows = console.file.getvalue().splitlines()
    assert sum("killed" in row for row in rows) == 1
    assert sum("training" in row for row in rows) == 2
    assert any("127.0.0.1:7704" in row and "starting" in row for row in rows)


def test_the_line_speaks_of_those_that_live() -> None:
    assert peers_line(PEERS) == (
        "2 peers, epoch 4 with 2 members, step 57 to 60, loss 0.1250, 5120 samples/s, test accuracy 0.9625"
    )
    assert peers_line([PEERS[0], PEERS[3]]) == ""
    assert "step 57," in peers_line([PEERS[1]])


def test_without_a_terminal_progress_is_a_line_now_and_then() -> None:
    now = 100.0
    out = io.StringIO()
    with Display(Console(file=out, force_terminal=False, width=160), clock=lambda: now) as display:
        display.say("starting [4] peers")
        for _ in range(5):
            display.show(PEERS)
        assert out.getvalue() == "  0.0 s  starting [4] peers\n"
        now += LINE_SECONDS
        display.show(PEERS)
        display.show(PEERS)
    assert len(out.getvalue().splitlines()) == 2


def test_on_a_terminal_the_table_is_live_and_lines_stay_above_it() -> None:
    out = io.StringIO()
    with Display(Console(file=out, force_terminal=True, width=160)) as display:
        display.show([watched(1, a_status(members=(a_member(1),)))])
        display.say("killing peer 1")
    assert "killing peer 1" in out.getvalue()
    assert "127.0.0.1:7701" in out.getvalue()
    assert out.getvalue().rindex("\x1b[?25h") > out.getvalue().rindex("\x1b[?25l")
